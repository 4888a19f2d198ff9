"""Clips made by hand, and files of a tracker's boxes of them."""

from pathlib import Path

import numpy as np

from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.pixels.geometry import xywh_to_xyxy, xyxy_to_xywh

GIVEN = np.array([30.0, 40.0, 20.0, 10.0])
FRAMES = 6


def clip_of(name: str, dataset: str = "lasot", split: str = "test", frames: int = FRAMES) -> Clip:
    boxes = np.tile(xywh_to_xyxy(GIVEN), (frames, 1)) + np.arange(frames)[:, None]
    files = FrameFiles(Path("frames"), range(1, frames + 1), "%08d.jpg")
    track = Track(boxes, np.ones(frames, bool))
    return Clip(dataset, split, name, files, (track,), frames, (200, 100))


def ours_of(clip: Clip, shift: float = 0.25) -> np.ndarray:
    """Boxes as a tracker of ours returns them: the given one, then some beside the truth."""
    boxes = xyxy_to_xywh(clip.tracks[0].boxes)
    boxes[1:] += shift
    return boxes


def shift_of(pixels: float) -> np.ndarray:
    return np.array([pixels, pixels, 0.0, 0.0])


def write_rows(path: Path, rows: np.ndarray, separator: str = ",", form: str = "%.4f") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, rows, fmt=form, delimiter=separator)
