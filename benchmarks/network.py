"""A training step of B-224 with our LoRA, and with LoRA as its formula reads.

In both number types, one after the other; in bfloat16 only where that is fast. The plain side is the oracle of the
tests: query, key and value as layers of their own with a pair each, frozen weights in float32, cast by autocast where
it computes in bfloat16, PyTorch's attention. All else is the same code on both sides, on random weights: forward, loss,
backward, gradient norm, AdamW. In bfloat16 a third side, "pairs", is the plain one with our attention, so that only the
pairs differ.

Each side has a process of its own, as a training has, and they do steps in turn. Memory: a process notes its resident
set once everything is imported; then it builds network and optimiser. The peak resident set from then to the end, less
the first figure, is what counts: weights, activations, gradients, the optimiser's state and what the allocator wastes.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.timing import in_turn
from lorat.configs.load import load_variant
from lorat.configs.schema import VariantConfig
from lorat.shards.base.process import ALL_FREED, keep_freed_memory
from lorat.train.network.blocks.layers import attend
from lorat.train.network.deploy.processor import Product, fast_dtype
from lorat.train.network.variants import build_network, empty_network
from lorat.train.step.loss import tracking_loss
from lorat.train.step.optimizer import build_optimizer, clip_gradients, set_learning_rate
from tests.train.network.plain_lora import make_plain

__all__ = ["SIDES", "Side", "run", "training_step"]

SIDES = {torch.bfloat16: ("plain", "pairs", "ours"), torch.float32: ("plain", "ours")}

_CHILD = """
import json, sys, time
from pathlib import Path
from lorat.shards.base.process import wait_briefly

wait_briefly()  # as a training does, on all sides: other work is not to decide
import torch
from benchmarks.{module} import training_step

def kb(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

before = kb("VmRSS:")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
step = training_step(sys.argv[1], getattr(torch, sys.argv[2]), bool(int(sys.argv[3])))
for line in sys.stdin:
    begin = time.process_time()
    step()
    print(json.dumps([kb("VmHWM:") - before, time.process_time() - begin]), flush=True)
"""


class Side:
    """A process that does training steps of one side, a module's ``training_step``, when told to."""

    def __init__(self, side: str, dtype: torch.dtype, quick: bool, module: str = "network") -> None:
        self.peak_mb = self.cpu_seconds = 0.0  # of all steps, and of the last
        code = _CHILD.replace("{module}", module)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, side, str(dtype).removeprefix("torch."), str(int(quick))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=Path(__file__).parents[1],  # where the process finds these packages
        )

    def step(self) -> int:
        """Wait for one step and return 1."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("step\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process ended with status {self._process.wait()}")
        peak, self.cpu_seconds = json.loads(answer)
        self.peak_mb = peak * 1.024e-3
        return 1

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()


def run(quick: bool) -> dict[str, float | str]:
    """Measure all sides.

    Args:
        quick: two blocks of a small width, batch 2, one round.

    Returns:
        Milliseconds a step and MB (10⁶ bytes) of each side, and the ratios that have targets, for bfloat16 under
        ``step_…``, for float32 under ``float32_step_…``.
    """
    worthwhile = quick or fast_dtype(Product.of(empty_network(_variant(quick)))) == torch.bfloat16
    numbers = _measure(torch.bfloat16, quick) if worthwhile else {}
    return numbers | {f"float32_{name}": value for name, value in _measure(torch.float32, quick).items()}


def _measure(dtype: torch.dtype, quick: bool) -> dict[str, float | str]:
    sides = {side: Side(side, dtype, quick) for side in SIDES[dtype]}
    try:
        times = in_turn(1 if quick else 9, {name: side.step for name, side in sides.items()})
    finally:
        for side in sides.values():
            side.end()
    plain, ours = sides["plain"].peak_mb, sides["ours"].peak_mb
    of_pairs = {"step_speedup_of_pairs": round(times.ratio("pairs", "ours"), 3)} if "pairs" in sides else {}
    return {
        "step_plain_ms": round(times.median("plain") * 1e3, 1),
        "step_ms": round(times.median("ours") * 1e3, 1),
        "step_speedup": round(times.ratio("plain", "ours"), 3),
        **of_pairs,
        "step_plain_peak_mb": round(plain, 1),
        "step_peak_mb": round(ours, 1),
        "step_peak_of_plain": round(ours / plain, 3),
    }


def training_step(side: str, dtype: torch.dtype, quick: bool = False) -> Callable[[], int]:
    """Build network and optimiser and return what does one step, and returns 1.

    Args:
        side: one of `SIDES`.
        dtype: what to compute in, bfloat16 or float32.
        quick: as for `run`.
    """
    keep_freed_memory(ALL_FREED)  # as a training on a processor does
    torch.manual_seed(0)
    variant = _variant(quick)
    frozen = dtype if side == "ours" else torch.float32
    network = build_network(variant, dtype_frozen=frozen).train()
    if side != "ours":
        make_plain(network, attend if side == "pairs" else F.scaled_dot_product_attention)
    optimizer = build_optimizer(network)
    set_learning_rate(optimizer, 1e-4)
    batch, cells = 2 if quick else 8, network.search_grid
    template = torch.randn(batch, 3, variant.template_size, variant.template_size)
    search = torch.randn(batch, 3, variant.search_size, variant.search_size)
    mask = torch.ones(batch, network.template_grid, network.template_grid, dtype=torch.bool)
    positive = torch.zeros(batch, cells, cells, dtype=torch.bool)
    positive[:, 4:9, 5:11] = True
    box = torch.tensor([[5.0, 4.0, 11.0, 9.0]]).expand(batch, 4) / cells

    def step() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            prediction = network(template, search, mask)
        tracking_loss(prediction, positive, box, positive.sum()).total.backward()
        clip_gradients(network, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return 1

    return step


def _variant(quick: bool) -> VariantConfig:
    variant = load_variant("B-224")
    args = {"embed_dim": 128, "depth": 2, "num_heads": 2} if quick else {}
    backbone = variant.backbone.model_copy(update={"pretrained": False, "args": args})
    return variant.model_copy(update={"backbone": backbone})
