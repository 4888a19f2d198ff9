"""Other layers in the place of a block's linear ones: what every adapter needs, whatever it adds.

Names of targets are those of `LoraConfig.targets`.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import nn

TARGETS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("q", "k", "v"),
    **{f"{part}_proj": (part,) for part in "qkv"},
    "proj": ("proj",),
    **dict.fromkeys(("fc1", "fc2", "w12", "w3", "fc1_g", "fc1_x"), ("mlp",)),
}
"""Name of a linear layer in its module → what it computes; several names for several results of the same width, one
after another."""

Layer = TypeVar("Layer", bound=nn.Module)


def replace_layers(root: nn.Module, kind: type[Layer], replace: Callable[[str, Layer], nn.Module]) -> None:
    """Put another module in the place of every layer of a kind, in place.

    Args:
        root: searched through; not replaced itself.
        kind: of the layers, subclasses included.
        replace: maps a layer's path below `root` and the layer to what stands there from now on; the layer itself,
            where it shall stay. What it returns is not searched.
    """
    found = [(path, layer) for path, layer in root.named_modules() if isinstance(layer, kind)]
    for path, layer in found:
        parent, _, name = path.rpartition(".")
        setattr(root.get_submodule(parent), name, replace(path, layer))
