"""What the table shows of each module's numbers, and which of them have targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["MODULES", "ROWS", "Row"]

Numbers = Mapping[str, float | str]

MODULES = (
    *("build", "training", "tuples", "memory", "index", "slow_disk", "order", "packing"),
    *("network", "inference", "handover", "trainer", "scoring", "tracking", "start", "shared_cores"),
)
"""Of this package; each has ``run(quick) -> Numbers``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    module: str
    what: str
    measured: str
    """Format string over the module's numbers."""
    against: str
    """What the ratio is taken against, in the same run; empty where it is a plain limit."""
    judged: str
    """Key of the number that the target is for."""
    target: float
    sense: Literal["least", "most"]
    shown: str
    """Format string of the judged number and of the target, over ``v``."""

    def reached(self, numbers: Numbers) -> bool:
        """Return whether the target is met."""
        value = float(numbers[self.judged])
        return value >= self.target if self.sense == "least" else value <= self.target

    def cells(self, numbers: Numbers) -> tuple[str, str, str, str, str, str]:
        """Return the table's cells: what, measured, ratio, against, target, reached."""
        sign = "≥" if self.sense == "least" else "≤"
        return (
            self.what,
            self.measured.format(**numbers),
            self.shown.format(v=float(numbers[self.judged])) if self.against else "",
            self.against,
            f"{sign} {self.shown.format(v=self.target)}",
            "yes" if self.reached(numbers) else "no",
        )


_PERCENT, _TIMES, _SECONDS = "{v:.1%}", "{v:.2f}x", "{v:g} s"

ROWS = (
    Row(
        "build",
        "build, one process",
        "{build_pairs_per_s:.0f} pairs/s",
        "frames only decoded, crops only encoded",
        "build_of_floor",
        0.70,
        "least",
        _PERCENT,
    ),
    Row(
        "build",
        "build, two processes",
        "{two_pairs_per_s:.0f} pairs/s",
        "one process",
        "two_of_one",
        1.8,
        "least",
        _TIMES,
    ),
    Row("training", "read a sample", "{read_us:.0f} µs", "decoding it", "read_of_decode", 0.05, "most", _PERCENT),
    Row(
        "training",
        "training samples, one process",
        "{samples_per_s:.0f} pairs/s",
        "only decoding the stored JPEGs",
        "sample_of_decode",
        0.50,
        "least",
        _PERCENT,
    ),
    Row(
        "training",
        "the same (10x is the aim)",
        "{samples_per_s:.0f} pairs/s",
        "the published way, from frames",
        "sample_of_published",
        6.0,
        "least",
        _TIMES,
    ),
    Row(
        "tuples",
        "training samples of SPMTrack's tuples at 378, one process",
        "{spmtrack_sample_ms:.2f} ms, a pair {pair_sample_ms:.2f} ms",
        "only decoding the stored JPEGs",
        "spmtrack_of_decode",
        0.50,
        "least",
        _PERCENT,
    ),
    Row(
        "memory",
        "a loader worker beyond torch",
        "{worker_beyond_torch_mb:.0f} MB",
        "",
        "worker_beyond_torch_mb",
        300.0,
        "most",
        "{v:.0f} MB",
    ),
    Row(
        "index", "write an index of 14 M frames", "{index_write_s:.0f} s", "", "index_write_s", 600.0, "most", _SECONDS
    ),
    Row(
        "index",
        "memory while writing it",
        "{index_write_peak_mb:.0f} MB",
        "",
        "index_write_peak_mb",
        2000.0,
        "most",
        "{v:.0f} MB",
    ),
    Row("index", "open it", "{index_open_s:.2f} s", "", "index_open_s", 5.0, "most", _SECONDS),
    Row(
        "packing",
        "read a pair, in the page cache",
        "{cached_packed_us:.0f} µs",
        "as three loose files",
        "cached_speedup",
        0.8,
        "least",
        _TIMES,
    ),
    Row(
        "packing",
        "the same, from the disk",
        "{forgotten_packed_us:.0f} µs",
        "as three loose files",
        "forgotten_speedup",
        1.0,
        "least",
        _TIMES,
    ),
    Row(
        "packing",
        "the same, opening and reading 5 ms late",
        "{late_packed_us:.0f} µs",
        "as three loose files",
        "late_speedup",
        3.0,
        "least",
        _TIMES,
    ),
    Row(
        "packing",
        "the same, 20 ms a request",
        "{store_packed_us:.0f} µs",
        "as three loose files",
        "store_speedup",
        2.5,
        "least",
        _TIMES,
    ),
    Row(
        "slow_disk",
        "index, all files 5 ms late",
        "{late_index_ms:.2f} ms a sequence",
        "one file after another",
        "late_index_speedup",
        8.0,
        "least",
        _TIMES,
    ),
    Row(
        "slow_disk",
        "see that nothing changed, the same",
        "{late_start_ms:.2f} ms a sequence",
        "the same",
        "late_start_speedup",
        8.0,
        "least",
        _TIMES,
    ),
    Row(
        "order",
        "an epoch's order, pool of 4 M",
        "{order_slowest_s:.2f} s",
        "",
        "order_slowest_s",
        1.0,
        "most",
        _SECONDS,
    ),
    Row("order", "resume in mid-epoch", "{resume_s:.2f} s", "", "resume_s", 2.0, "most", _SECONDS),
    Row(
        "network",
        "training step of B-224, batch 8, bfloat16",
        "{step_ms:.0f} ms ({step_speedup_of_pairs:.2f}x by pairs alone)",
        "LoRA and attention as their formulas read",
        "step_speedup",
        1.2,
        "least",
        _TIMES,
    ),
    Row("network", "its peak memory", "{step_peak_mb:.0f} MB", "the same", "step_peak_of_plain", 0.85, "most", _TIMES),
    Row(
        "network",
        "the same step in float32",
        "{float32_step_ms:.0f} ms",
        "the same",
        "float32_step_speedup",
        1.35,
        "least",
        _TIMES,
    ),
    Row(
        "network",
        "its peak memory",
        "{float32_step_peak_mb:.0f} MB",
        "the same",
        "float32_step_peak_of_plain",
        1.0,
        "most",
        _TIMES,
    ),
    Row(
        "inference",
        "a frame of B-224, bfloat16",
        "{frame_ours_bfloat16_ms:.0f} ms",
        "float32",
        "frame_bfloat16_speedup",
        2.5,
        "least",
        _TIMES,
    ),
    Row(
        "inference",
        "the same",
        "{frame_ours_bfloat16_ms:.0f} ms",
        "LoRA not merged, whole last block",
        "frame_speedup_bfloat16",
        1.1,
        "least",
        _TIMES,
    ),
    Row(
        "inference",
        "a frame of B-224, float32",
        "{frame_ours_float32_ms:.0f} ms",
        "LoRA not merged, whole last block",
        "frame_speedup_float32",
        1.1,
        "least",
        _TIMES,
    ),
    Row(
        "handover",
        "hand over a batch of 128",
        "{handover_ms:.1f} ms",
        "its tensors one by one",
        "handover_speedup",
        1.0,
        "least",
        _TIMES,
    ),
    Row(
        "trainer",
        "a step beside its computation",
        "{outside_ms:.1f} ms",
        "the whole step, B-224, batch 8",
        "outside_share",
        0.05,
        "most",
        _PERCENT,
    ),
    Row(
        "trainer",
        "waiting for data, one worker",
        "{wait_share:.1%}",
        "the whole step, B-224, batch 8",
        "wait_share",
        0.02,
        "most",
        _PERCENT,
    ),
    Row(
        "trainer",
        "training without computation",
        "{stub_pairs_per_s:.0f} pairs/s",
        "the loader alone",
        "stub_of_loader",
        0.85,
        "least",
        _PERCENT,
    ),
    Row(
        "trainer",
        "a step over two processes",
        "{two_processes_step_s:.2f} s",
        "one process with both cores",
        "two_processes_of_one",
        0.8,
        "least",
        _TIMES,
    ),
    Row(
        "trainer",
        "a checkpoint of B-224",
        "{save_ms:.0f} ms",
        "the default interval, 30 min",
        "save_share",
        0.01,
        "most",
        "{v:.2%}",
    ),
    Row("trainer", "start to first step, S-224", "{first_step_s:.1f} s", "", "first_step_s", 15.0, "most", _SECONDS),
    Row(
        "scoring",
        "score LaSOT's test split from files",
        "{scoring_s:.1f} s ({scoring_cpu_s:.1f} s of processor)",
        "",
        "scoring_s",
        20.0,
        "most",
        _SECONDS,
    ),
    Row(
        "scoring",
        "the same",
        "{scoring_frames_per_s:.0f} frames/s",
        "numpy.loadtxt of the same files",
        "scoring_of_load",
        5.0,
        "most",
        _TIMES,
    ),
    Row(
        "tracking",
        "a frame of 1280 by 720 beside the network",
        "{frame_beside_network_ms:.2f} ms",
        "decoding it",
        "frame_of_decode",
        1.3,
        "most",
        _TIMES,
    ),
    Row(
        "tracking",
        "16 sequences side by side, S-224",
        "{side_by_side_fps:.1f} fps",
        "the network alone, batches of 16",
        "side_by_side_of_network",
        0.9,
        "least",
        _TIMES,
    ),
    Row(
        "tracking",
        "the same",
        "{side_by_side_fps:.1f} fps",
        "one sequence after another",
        "side_by_side_of_one_by_one",
        1.0,
        "least",
        _TIMES,
    ),
    Row(
        "tracking",
        "the same, where a core is free",
        "{core_free_ms:.1f} ms a frame",
        "the network alone",
        "core_free_of_network",
        1.1,
        "most",
        _TIMES,
    ),
    Row(
        "tracking",
        "memory, sequences of 10,000 frames",
        "{peak_mb:.0f} MB",
        "sequences of 500 frames",
        "memory_of_length",
        1.05,
        "most",
        _TIMES,
    ),
    Row(
        "tracking",
        "memory, 400 sequences",
        "{numerous_mb:.0f} MB",
        "20 sequences",
        "memory_of_number",
        1.05,
        "most",
        _TIMES,
    ),
    Row(
        "start",
        "a tracker's start, toy network",
        "{start_toy_s:.2f} s of processor",
        "importing PyTorch, reading the file",
        "start_of_torch",
        1.5,
        "most",
        _TIMES,
    ),
    Row(
        "shared_cores",
        "S-224 beside two busy processes",
        "{beside_fps:.1f} fps",
        "PyTorch's threads as they come",
        "beside_speedup",
        2.0,
        "least",
        _TIMES,
    ),
    Row(
        "shared_cores",
        "the same alone",
        "{alone_fps:.1f} fps",
        "PyTorch's threads as they come",
        "alone_speedup",
        0.97,
        "least",
        _TIMES,
    ),
    Row(
        "shared_cores",
        "the same, begun beside two busy processes that ended",
        "{after_fps:.1f} fps",
        "PyTorch's threads as they come",
        "after_speedup",
        0.95,
        "least",
        _TIMES,
    ),
)
