"""SPMTrack's training step, and a tracked frame of LoRATv2, each beside what it is measured against.

The step, in the number type that is fast here: four blocks of SPMTrack-B-378 with two samples, as published (three
templates, two search crops), against the mixture of experts as its formula reads: experts one by one, frozen weights in
float32, PyTorch's attention, autograd keeps what it likes. All else is the same code on the same random weights. A
third side, "experts", is the plain one with our attention, so that only the experts differ. In processor time, since a
step is long and other work comes and goes; memory as in `network`.

The frame: LoRATv2-p1-B-224 with its template's keys and values known, beside LoRAT B-224 with its template's tokens
known; both merged, in float32, on two threads.
"""

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.network import Side
from benchmarks.timing import in_turn
from lorat.configs.load import load_variant
from lorat.configs.schema import VariantConfig
from lorat.shards.base.process import ALL_FREED, keep_freed_memory
from lorat.train.network.blocks import vit
from lorat.train.network.deploy.processor import Product, fast_dtype
from lorat.train.network.variants import build_network, empty_network
from lorat.train.profile.count import count_frame, made_up_crops, materialise, tracking_network
from lorat.train.step.loss import tracking_loss
from lorat.train.step.optimizer import build_optimizer, clip_gradients, set_learning_rate
from tests.train.network.plain_tmoe import make_plain

__all__ = ["run", "training_step"]

_CPU, _THREADS = torch.device("cpu"), 2


def run(quick: bool) -> dict[str, float | str]:
    """Measure both.

    Args:
        quick: two narrow blocks, one round.

    Returns:
        Processor seconds and MB (10⁶ bytes) of a step of both sides, their ratios, milliseconds of both frames, and the
        ratios of their times and operations.
    """
    return _steps(quick) | _frames(quick)


def _steps(quick: bool) -> dict[str, float | str]:
    dtype = fast_dtype(Product.of(empty_network(_spmtrack(quick))))
    sides = {name: Side(name, dtype, quick, "family") for name in ("plain", "experts", "ours")}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for round_ in range(2 if quick else 4):
            for name, side in sides.items():
                side.step()
                if round_:
                    seconds[name].append(side.cpu_seconds)
    finally:
        for side in sides.values():
            side.end()

    def ratio(side: str) -> float:
        pairs = zip(seconds[side], seconds["ours"], strict=True)
        return round(statistics.median(other / ours for other, ours in pairs), 3)

    return {
        "experts_type": str(dtype).removeprefix("torch."),
        "experts_plain_cpu_s": round(statistics.median(seconds["plain"]), 3),
        "experts_cpu_s": round(statistics.median(seconds["ours"]), 3),
        "experts_speedup": ratio("plain"),
        "experts_speedup_alone": ratio("experts"),
        "experts_plain_peak_mb": round(sides["plain"].peak_mb, 1),
        "experts_peak_mb": round(sides["ours"].peak_mb, 1),
        "experts_peak_of_plain": round(sides["ours"].peak_mb / sides["plain"].peak_mb, 3),
    }


def training_step(side: str, dtype: torch.dtype, quick: bool = False) -> Callable[[], int]:
    """Build network and optimiser and return what does one step, and returns 1.

    Args:
        side: ``plain``, ``experts`` or ``ours``.
        dtype: what to compute in.
        quick: as for `run`.
    """
    keep_freed_memory(ALL_FREED)  # as a training on a processor does
    torch.manual_seed(0)
    variant = _spmtrack(quick)
    network = build_network(variant, dtype_frozen=dtype if side == "ours" else torch.float32).train()
    if side != "ours":
        make_plain(network)
    if side == "plain":
        vit.attend = F.scaled_dot_product_attention  # this process is that side's alone
    optimizer = build_optimizer(network)
    set_learning_rate(optimizer, 1e-4)
    template, mask, search, _ = made_up_crops(variant, network, _CPU)
    cells, sizes = network.search_grid, (2, variant.searches)
    inputs = torch.randn(2, *template.shape[1:]), mask.expand(2, -1, -1, -1), torch.randn(*sizes, *search.shape[1:])
    positive = torch.zeros(2, cells, cells, dtype=torch.bool)
    positive[:, 8:16, 9:17] = True
    box = (torch.tensor([[9.0, 8.0, 17.0, 16.0]]) / cells).expand(2, 4)

    def step() -> int:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            found = network.predict(*inputs)
        losses = [tracking_loss(prediction, positive, box, positive.sum()).total for prediction in found]
        torch.stack(losses).sum().backward()
        clip_gradients(network, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return 1

    return step


def _frames(quick: bool) -> dict[str, float | str]:
    args = {"embed_dim": 128, "depth": 2, "num_heads": 2} if quick else {}
    variants = {"lorat": _small("B-224", args), "loratv2": _small("loratv2-p1-B-224", args)}
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        times = in_turn(1 if quick else 25, {name: _frame(variant) for name, variant in variants.items()})
    finally:
        torch.set_num_threads(threads)
    operations = {name: count_frame(variant).track for name, variant in variants.items()}
    return {
        "frame_lorat_ms": round(times.median("lorat") * 1e3, 1),
        "frame_loratv2_ms": round(times.median("loratv2") * 1e3, 1),
        "frame_time_of_lorat": round(times.ratio("loratv2", "lorat"), 3),
        "frame_cpu_of_lorat": round(times.cpu_ratio("loratv2", "lorat"), 3),
        "frame_operations_of_lorat": round(operations["loratv2"] / operations["lorat"], 3),
    }


def _frame(variant: VariantConfig) -> Callable[[], int]:
    network = materialise(tracking_network(variant, torch.float32), _CPU)
    with torch.inference_mode():
        template, mask, search, _ = made_up_crops(variant, network, _CPU)
        memory = network.remember(template, mask)

    def frame() -> int:
        with torch.inference_mode():
            network.follow(memory, search)
        return 1

    return frame


def _spmtrack(quick: bool) -> VariantConfig:
    return _small("spmtrack-B-378", {"embed_dim": 128, "depth": 2, "num_heads": 2} if quick else {"depth": 4})


def _small(name: str, args: dict[str, int]) -> VariantConfig:
    variant = load_variant(name)
    backbone = variant.backbone.model_copy(update={"pretrained": False, "args": args})
    return variant.model_copy(update={"backbone": backbone})
