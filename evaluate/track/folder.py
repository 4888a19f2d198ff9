"""The folder of one evaluation: what is done in it, and by which tracker.

Promise: results of two trackers never mix. ``tracker.json`` says which weights and number type the results are of; a
second evaluation goes on where the first stopped if it is of the same, and is refused otherwise.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from lorat.configs.schema import MemoryRule
from lorat.evaluate.results.files import has_result, read_result
from lorat.evaluate.track.testsets import TestSet
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import file_digest, remove_file, write_json
from lorat.shards.pixels.geometry import xyxy_to_xywh
from lorat.shards.pixels.jpeg import Range16

METRICS = "metrics.json"  # where the scores of an evaluation stand, in its folder
_VERSION = {"version": 1}
_IDENTITY, _MACHINES = "tracker.json", "speed.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides a tracker's boxes."""

    weights: str  # SHA-256 of the weights file
    variant: str
    dtype: str  # ``float32``, ``bfloat16``, ``float16``; ``compiled`` after it where the network was
    settings: str = ""  # hash of the backbone's fingerprint and of the whole variant
    resize: str = "published"  # or ``shards``: how frames were shrunk into crops
    range16: Range16 | None = None
    method: str = "lorat"
    redetect: bool = False
    engine: str = "torch"  # of a graph the weights are the digests of all its files
    memory_rules: Mapping[str, MemoryRule] = field(default_factory=dict)  # data set → SPMTrack's, not the variant's

    @property
    def label(self) -> str:
        """What tables call the tracker."""
        names = {"spmtrack": "SPMTrack", "loratv2": "LoRATv2"}
        return f"{names.get(self.method, 'LoRAT')} {self.variant.removeprefix(f'{self.method}-')}"


def weights_digest(*weights: Path) -> str:
    """Return the SHA-256 of weights files, one after another; a `UserError` if one cannot be read."""
    return "+".join(file_digest(path, "name a weights file with --weights, or a run with --run") for path in weights)


def result_folder(out: Path, name: str, run: int = 1) -> Path:
    """Return where a test set's results stand: those of repeated runs in ``run_002`` … under those of the first."""
    folder = out / "results" / name
    return folder if run == 1 else folder / f"run_{run:03d}"


def claim(out: Path, identity: Identity, overwrite: bool) -> None:
    """Note that results in `out`, all removed to `overwrite`, are of this tracker; a `UserError` if they are not."""
    if overwrite:
        _clear(out)
    if any((out / "results").rglob("*.txt")) and read_identity(out) != identity:
        options = "--engine, --compile, --resize, --range16, --redetect or --published"
        other = f"holds results of other weights, variant, number type, {options} than these"
        raise UserError(f"{out}: {other} ({identity.variant}, {identity.dtype}); give another --out, or --overwrite")
    write_json(out / _IDENTITY, _VERSION | asdict(identity))


def _clear(out: Path) -> None:
    for file in [*(out / "results").rglob("*.txt"), out / _MACHINES]:
        remove_file(file)


def note_machine(out: Path, machine: str) -> None:
    """Note on what the results in `out`, or some of them, were computed."""
    if machine not in (machines := machines_of(out)):
        write_json(out / _MACHINES, _VERSION | _speed(out) | {"measured_on": [*machines, machine]})


def note_latency(out: Path, milliseconds: float) -> None:
    """Note how long a frame takes where one sequence is tracked alone."""
    write_json(out / _MACHINES, _VERSION | _speed(out) | {"latency_ms": round(milliseconds, 3)})


def latency_of(out: Path) -> float | None:
    """Return how many milliseconds a frame took where one sequence was tracked alone; None where that is not noted."""
    value = _speed(out).get("latency_ms")
    return float(value) if isinstance(value, int | float) else None


def machines_of(out: Path) -> list[str]:
    """Return on what the results in `out` were computed, as far as that was noted."""
    machines = _speed(out).get("measured_on")
    return [str(name) for name in machines] if isinstance(machines, list) else []


def _speed(out: Path) -> dict[str, Any]:
    try:
        found = json.loads((out / _MACHINES).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def forget_others(out: Path, weights: Path) -> None:
    """Remove results and scores from `out` unless they are of these weights."""
    there = read_identity(out)
    if (out / _IDENTITY).is_file() and (there is None or there.weights != weights_digest(weights)):
        _clear(out)
        remove_file(out / METRICS)


def is_done(out: Path, name: str, clip: Clip, run: int = 1) -> bool:
    """Return whether `out` holds the whole result of a clip of the test set `name`. One with another number of frames,
    another first box, or lines that do not parse is not whole.
    """
    folder = result_folder(out, name, run)
    if not has_result(folder, clip.name):
        return False
    try:
        result = read_result(folder, clip.name)
    except UserError:
        return False
    first = xyxy_to_xywh(clip.tracks[0].boxes[0])
    same_box = np.allclose(result.boxes[0], first, rtol=0.0, atol=1e-3)  # they are written with four decimals
    # The first frame always has a score, so one that lacks it lost its scores file.
    return len(result.boxes) == len(clip.frames) and same_box and np.isfinite(result.scores[0])


def unfinished(out: Path, item: TestSet, why: str) -> dict[str, str]:
    """Return sequence → why it has no whole result of every run: as the tree says, or `why`."""
    runs = range(1, item.runs + 1)
    lacking = [clip.name for clip in item.clips if not all(is_done(out, item.name, clip, run) for run in runs)]
    return {**item.unread, **dict.fromkeys(lacking, why)}


def number_type(out: Path, weights: str) -> str | None:
    """Return the number type of the results that `out` holds, if they are of these weights."""
    there = read_identity(out) if any((out / "results").rglob("*.txt")) else None
    return there.dtype.removesuffix(" compiled") if there is not None and there.weights == weights else None


def read_identity(out: Path) -> Identity | None:
    """Return whose results `out` holds, or None where that is not said or in another version."""
    try:
        return TypeAdapter(Identity).validate_json((out / _IDENTITY).read_bytes())
    except (OSError, ValueError):
        return None
