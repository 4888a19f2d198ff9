"""A LaSOT tree and results of it, as the tests of `score` and `export-results` need them."""

import re
import zipfile
from pathlib import Path

import numpy as np

from lorat.evaluate.results.files import SequenceResult, write_result
from lorat.shards.pixels.jpeg import encode

NAMES = ("airplane-1", "airplane-9", "basketball-1")
FRAMES = 12

_GOLDEN = Path(__file__).parents[1] / "golden"


def truth_of(index: int) -> np.ndarray:
    """Boxes of a sequence as the tree has them: x, y from 1."""
    steps = np.arange(FRAMES)[:, None]
    return np.array([31.0 + 10 * index, 41, 24, 16]) + steps * np.array([2, 1, 0, 0])


def write_lasot(raw: Path, names: tuple[str, ...] = NAMES) -> Path:
    for index, name in enumerate(names):
        folder = raw / "LaSOT" / name.rpartition("-")[0] / name
        folder.mkdir(parents=True)
        np.savetxt(folder / "groundtruth.txt", truth_of(index), fmt="%d", delimiter=",")
        for flags in ("full_occlusion", "out_of_view"):
            (folder / f"{flags}.txt").write_text(",".join("0" * FRAMES) + "\n")
    return raw


def tracked(index: int, shift: float = 3.0) -> np.ndarray:
    """What a tracker returned for a sequence, in the tree's base."""
    boxes = truth_of(index) + np.array([shift + index, 1.25, 0.5, 0.5])
    boxes[0] = truth_of(index)[0]
    return boxes


def write_ours(out: Path, shifts: tuple[float, ...] = (3.0,), names: tuple[str, ...] = NAMES) -> Path:
    """Write results as `lorat-eval` does, a run for each shift."""
    for run, shift in enumerate(shifts, start=1):
        folder = out / "results" / "lasot-test"
        folder = folder if run == 1 else folder / f"run_{run:03d}"
        for index, name in enumerate(names):
            boxes = tracked(index, shift) - [1, 1, 0, 0]
            times = np.full(FRAMES, 0.02)
            write_result(folder, SequenceResult(name, boxes, np.ones(FRAMES), times))
    return out


def write_flat(folder: Path, shift: float = 3.0, names: tuple[str, ...] = NAMES) -> Path:
    """Write box files as MATLAB toolkits do, from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        np.savetxt(folder / f"{name}.txt", tracked(index, shift), fmt="%.3f", delimiter=",")
    return folder


def unpack_got10k(folder: Path) -> None:
    """Unpack the golden val tree, whose images are empty, as ``gotval``, its results as ``gotres``.

    Each sequence gets a first image of the size that its ``meta_info.ini`` names.
    """
    with zipfile.ZipFile(_GOLDEN / "g8_got10k_val_tree_and_results.zip") as archive:
        archive.extractall(folder)
    for meta in (folder / "gotval" / "val").glob("*/meta_info.ini"):
        numbers = re.search(r"resolution:\s*\((\d+),\s*(\d+)\)", meta.read_text())
        assert numbers is not None, meta.read_text()
        width, height = map(int, numbers.groups())
        image = np.zeros((height, width, 3), np.uint8)
        (meta.parent / "00000001.jpg").write_bytes(encode(image, 50))
