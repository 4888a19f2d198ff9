"""Weight files made as the published format is described, without the code under test.

Everything is invented but the names, shapes, number types and containers. For each file the expected network is known
as plain tensors: merged in float32, layer by layer.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig

WIDTH, DEPTH, RANK, GRID = 32, 3, 4, 6
"""The backbone's own grid is GRID x GRID patches of 14 pixels."""

FAMILIES = {
    "official": ("vit_small_patch14_dinov2.lvd142m", "official", {}),
    "official-gated": ("vit_giant_patch14_dinov2.lvd142m", "official", {"mlp_ratio": 5.5}),
    "timm-dinov2": ("vit_small_patch14_dinov2.lvd142m", "timm", {}),
    "timm-gated": ("vit_giant_patch14_dinov2.lvd142m", "timm", {"mlp_ratio": 5.5}),
    "clip": ("vit_large_patch14_clip_quickgelu_224.dfn2b", "timm", {}),
    "mae": ("vit_huge_patch14_224.mae", "timm", {}),
    "eva": ("eva02_base_patch14_224.mim_in22k", "timm", {}),
    "dinov3": ("vit_base_patch16_dinov3.lvd1689m", "timm", {"patch_size": 14}),
}
"""Family → timm's name, the published layout, arguments."""


def variant_of(family: str, search: int = 56, **lora: float) -> VariantConfig:
    """A small variant; its template has half the side."""
    name, layout, args = FAMILIES[family]
    sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2, "img_size": 14 * GRID}
    return VariantConfig(
        name=f"{family}-{search}",
        backbone=BackboneConfig(timm=name, args=sizes | args, layout=layout),
        lora=LoraConfig(**({"rank": RANK, "alpha": 8.0} | lora)),
        template_size=search // 2,
        search_size=search,
    )


@dataclass
class Published:
    """A released tracker, invented."""

    variant: VariantConfig
    backbone: dict[str, Tensor]
    """The pretrained file, under timm's names."""
    pairs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Published layer name → A, B."""
    rest: dict[str, Tensor] = field(default_factory=dict)
    """Token types, head and, with CLIP, norm_pre."""

    def trained(self) -> dict[str, Tensor]:
        """What a released file holds."""
        tensors = dict(self.rest)
        for layer, (a, b) in self.pairs.items():
            tensors |= {f"{layer}.lora.A": a, f"{layer}.lora.B": b}
        return tensors

    def base(self) -> dict[str, Tensor]:
        """Frozen tensors of the inference model under published names, positions as they are."""
        timms = self.variant.backbone.layout == "timm"
        tensors = {}
        for name, tensor in self.backbone.items():
            if name in ("cls_token", "reg_token") or name.startswith(("fc_norm.", "head.")):
                continue
            if name == "pos_embed":
                tensor = tensor[:, 1:]
            if timms and name.startswith(f"blocks.{DEPTH - 1}.attn.qkv."):
                kind = name.rpartition(".")[2]
                tensors[f"blocks.{DEPTH - 1}.attn.q.{kind}"] = tensor[:WIDTH]
                tensors[f"blocks.{DEPTH - 1}.attn.kv.{kind}"] = tensor[WIDTH:]
                continue
            name = re.sub(r"gamma_(\d)", r"ls\1.gamma", name)
            if not timms and "gated" in self.variant.name:
                name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
            tensors[name] = tensor
        return tensors

    def merged(self, scale: float) -> dict[str, Tensor]:
        """The inference model's tensors after the published merge."""
        tensors = {name: tensor.clone() for name, tensor in self.base().items()} | self.rest
        for layer, (a, b) in self.pairs.items():
            update = scale * (b @ a)
            name, rows = f"{layer}.weight", slice(None)
            parent, _, part = layer.rpartition(".")
            if parent.endswith((".qkv", ".kv")):
                name, first = f"{parent}.weight", "qkv".index(part) - parent.endswith(".kv")
                rows = slice(first * WIDTH, (first + 1) * WIDTH)
            tensors[name][rows] += update
        return tensors

    def whole(self) -> dict[str, Tensor]:
        """The training model's tensors, frozen ones included."""
        tensors = self.trained()
        for name, tensor in self.base().items():
            layer, _, kind = name.rpartition(".")
            parts = [p for p in "qkv" if f"{layer}.{p}" in self.pairs]
            if parts:
                for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True):
                    tensors[f"{layer}.{part}.linear.{kind}"] = piece.clone()
            elif layer in self.pairs:
                tensors[f"{layer}.linear.{kind}"] = tensor
            elif name not in self.rest:
                tensors[name] = tensor
        return tensors


def make(family: str, search: int = 56) -> Published:
    """Invent a tracker of a family, always the same."""
    torch.manual_seed(11)
    variant = variant_of(family, search)
    config = variant.backbone
    model = timm.create_model(config.timm, num_classes=0, **config.args)
    backbone = {name: torch.randn_like(t) * 0.2 for name, t in model.state_dict().items()}
    tracker = Published(variant, backbone)
    for i in range(DEPTH):
        for layer, (out, wide) in _layers(tracker, f"blocks.{i}.").items():
            tracker.pairs[layer] = torch.randn(RANK, wide), torch.randn(out, RANK)
    rest = {"token_type_embed": torch.randn(3, WIDTH)}
    for mlp, out in (("cls_mlp", 1), ("reg_mlp", 4)):
        for i, height in enumerate((WIDTH, WIDTH, out)):
            rest[f"head.{mlp}.layers.{i}.weight"] = torch.randn(height, WIDTH)
            rest[f"head.{mlp}.layers.{i}.bias"] = torch.randn(height)
    if family == "clip":
        rest |= {f"norm_pre.{kind}": torch.randn(WIDTH) for kind in ("weight", "bias")}
    tracker.rest = rest
    return tracker


def _layers(tracker: Published, block: str) -> dict[str, tuple[int, int]]:
    """Published names of a block's linear layers → (out, in)."""
    layers = {}
    for name, tensor in tracker.base().items():
        layer, _, kind = name.rpartition(".")
        if not name.startswith(block) or kind != "weight" or tensor.dim() != 2:
            continue
        if layer.endswith(".qkv"):
            layers |= {f"{layer}.{part}": (WIDTH, WIDTH) for part in "qkv"}
        elif layer.endswith(".kv"):
            layers |= {f"{layer}.{part}": (WIDTH, WIDTH) for part in "kv"}
        else:
            layers[layer] = (tensor.shape[0], tensor.shape[1])
    return layers


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    """Write a container by its suffix, as the published saver does."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".safetensors", ".bin"):
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path
