"""A tracked frame of B-224 on two threads: the network alone, one target, its template embedded.

Sides: ours in float32 and, where that is fast, in bfloat16, and the plain way in both types: LoRA beside every layer
instead of merged (a product for A and one for B a pair; query, key and value share the frozen product, as in ours), and
a last block that computes all tokens. All else is the same code on the same random weights; how far the score maps of
both ways are apart in float32, in units of their standard deviation, is told.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import in_turn
from lorat.configs.load import load_variant
from lorat.configs.schema import VariantConfig
from lorat.train.network.blocks.layers import replace_layers
from lorat.train.network.blocks.lora import LoraLinear, merge_adapters
from lorat.train.network.blocks.lorat import Prediction
from lorat.train.network.deploy.processor import Product, fast_dtype
from lorat.train.network.variants import assemble, empty_network, hold_matrices_in

__all__ = ["run"]

_THREADS = 2


def run(quick: bool) -> dict[str, float | str]:
    """Measure all sides.

    Args:
        quick: two narrow blocks, one round.

    Returns:
        Milliseconds a frame of every side (medians), and the ratios that have targets.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        variant = _variant(quick)
        types = ["float32", "bfloat16"]
        if not quick and fast_dtype(Product.of(empty_network(variant))) != torch.bfloat16:
            types.remove("bfloat16")
        sides = {
            f"{way}_{name}": _frame(variant, way, getattr(torch, name)) for name in types for way in ("ours", "plain")
        }
        ours, plain = (sides[f"{way}_float32"]().score_map for way in ("ours", "plain"))
        times = in_turn(1 if quick else 25, {name: _timed(frame) for name, frame in sides.items()})
    finally:
        torch.set_num_threads(threads)
    return {
        **{f"frame_{name}_ms": round(times.median(name) * 1e3, 2) for name in sides},
        **{f"frame_speedup_{name}": round(times.ratio(f"plain_{name}", f"ours_{name}"), 3) for name in types},
        **{f"frame_{name}_speedup": round(times.ratio("ours_float32", f"ours_{name}"), 3) for name in types[1:]},
        "frame_relative_difference": ((ours - plain).abs().max() / ours.std()).item(),
    }


def _timed(frame: Callable[[], Prediction]) -> Callable[[], int]:
    def once() -> int:
        frame()
        return 1

    return once


def _frame(variant: VariantConfig, way: str, dtype: torch.dtype) -> Callable[[], Prediction]:
    """Return what tracks one frame, ``ours`` or ``plain``, on the same random weights."""
    torch.manual_seed(0)
    network = assemble(variant, None).eval().requires_grad_(False)
    if way == "ours":
        merge_adapters(network)
    else:
        replace_layers(network, LoraLinear, lambda path, layer: _Unmerged(layer, dtype))
        network.blocks[-1] = _AllTokens(network.blocks[-1])
    hold_matrices_in(network, dtype)
    tokens = torch.randn(1, network.template_length, network.token_type_embed.shape[1])
    search = torch.randn(1, 3, variant.search_size, variant.search_size)

    def frame() -> Prediction:
        with torch.inference_mode():
            return network.follow(tokens, search).prediction

    return frame


class _Unmerged(nn.Module):
    """``x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ``, a pair for each of the results that the layer gives."""

    def __init__(self, layer: LoraLinear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = layer.weight.to(dtype)
        self.bias = None if layer.bias is None else layer.bias.to(dtype)
        down = layer.lora_a.to(dtype).chunk(len(layer.lora_b))
        self.pairs = list(zip(down, layer.lora_b.to(dtype), strict=True))
        self.scale = layer.pairing.scale

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        updates = [F.linear(F.linear(x, a), b) for a, b in self.pairs]
        update = updates[0] if len(updates) == 1 else torch.cat(updates, dim=-1)
        return F.linear(x, self.weight, self.bias) + self.scale * update


class _AllTokens(nn.Module):
    """A last block that computes the template's tokens too, which nobody reads."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, skip: int) -> Tensor:
        return self.block(x)[:, skip:]


def _variant(quick: bool) -> VariantConfig:
    variant = load_variant("B-224")
    args: dict[str, float] = {"embed_dim": 128, "depth": 2, "num_heads": 2} if quick else {}
    args["init_values"] = 1.0  # every block counts, so that a mistake in one shows in the boxes
    backbone = variant.backbone.model_copy(update={"pretrained": False, "args": args})
    return variant.model_copy(update={"backbone": backbone})
