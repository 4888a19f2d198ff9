"""Photograph-like HD trees for the benchmarks, in GOT-10k's layout, and shards built from them.

No photograph ships with the project, so the frames are made: noise whose amplitude falls as 1/f, as it does in
photographs, with sharp-edged shapes on it, slightly blurred as video is, JPEG of quality 90 with 4:2:0 chroma. They
take about 1.2 bits a pixel; real video frames re-encoded at that quality take 1.0 to 1.6, so a frame costs as much to
decode as a real one. Half the sequences have 1280 × 720 pixels, half 1920 × 1080. The object's sides are uniform from 8
to 30 % of the frame's width, drawn anew in every frame.
"""

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.prep.annotations.cleaning import clean as clean_clip
from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.manifest import Manifest
from lorat.shards.pixels.jpeg import encode

__all__ = ["SIZES", "TreeSize", "built_shards", "hd_clips", "scratch"]

SIZES = ((1280, 720), (1920, 1080))
_SIDES = (0.08, 0.30)  # of the frame's width
_QUALITY = 90
_CANVAS = 2304
_SLOPE = 1.25  # amplitude falls as 1 / frequency ** slope
_CONTRAST = 48.0  # standard deviation of the noise, 8-bit steps


@dataclass(frozen=True, slots=True)
class TreeSize:
    """How large a tree is."""

    sequences: int
    """Even: half of each frame size."""
    frames: int
    """A sequence."""

    @staticmethod
    def of(quick: bool) -> "TreeSize":
        """Return the size of a quick or of a full run."""
        return TreeSize(2, 3) if quick else TreeSize(16, 8)


@functools.cache
def scratch() -> Path:
    """Return this process's folder for trees and shards; it is removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix="lorat-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def hd_clips(size: TreeSize) -> tuple[Clip, ...]:
    """Write a tree of HD frames and return what its real reader gives."""
    root = scratch() / f"GOT-10k-{size.sequences}x{size.frames}"
    canvas = _noise_canvas(np.random.default_rng(0))
    names = [f"GOT-10k_Train_{number + 1:06d}" for number in range(size.sequences)]
    for number, name in enumerate(names):
        rng = np.random.default_rng((1, number))
        _write_sequence(root / "train" / name, canvas, SIZES[number % 2], size.frames, rng)
    (root / "train" / "list.txt").write_text("".join(f"{name}\n" for name in names))
    clips = read_clips(DATASETS["got10k"], "train", root)
    sized = [replace(clip, size=clip.frame_size()) for clip in clips]
    return tuple(c for clip in sized if (c := clean_clip(clip, clip.frame_size())))


@functools.cache
def built_shards(size: TreeSize, pairs: int, shard_pairs: int) -> Manifest:
    """Build shards of a tree's pairs with the real build, in this process."""
    folder = scratch() / f"shards-{size.sequences}x{size.frames}-{pairs}"
    options = BuildOptions(pairs=pairs, shard_pairs=shard_pairs, workers=1)
    return build(list(hd_clips(size)), folder, options).manifest


def _noise_canvas(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return (_CANVAS, _CANVAS, 3) noise of standard deviation 1 that is smooth as photographs.

    The channels share most of their structure, as those of photographs do.
    """
    rows = np.fft.fftfreq(_CANVAS)[:, None]
    columns = np.fft.rfftfreq(_CANVAS)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf  # no mean
    planes = []
    for _ in range(4):
        spectrum = np.fft.rfft2(rng.standard_normal((_CANVAS, _CANVAS))) / frequency**_SLOPE
        plane = np.fft.irfft2(spectrum, (_CANVAS, _CANVAS))
        planes.append((plane / plane.std()).astype(np.float32))
    return np.stack([0.9 * planes[0] + 0.3 * plane for plane in planes[1:]], axis=-1)


def _write_sequence(
    folder: Path, canvas: NDArray[np.float32], frame_size: tuple[int, int], frames: int, rng: np.random.Generator
) -> None:
    folder.mkdir(parents=True)
    lines = []
    for number in range(1, frames + 1):
        image = _background(canvas, frame_size, rng)
        x, y, w, h = _object_box(frame_size, rng)
        _paint_object(image, (x, y, w, h), rng)
        image = cv2.GaussianBlur(image, (0, 0), 0.7)
        (folder / f"{number:08d}.jpg").write_bytes(encode(image, _QUALITY))
        lines.append(f"{x:.4f},{y:.4f},{w:.4f},{h:.4f}\n")
    (folder / "groundtruth.txt").write_text("".join(lines))
    (folder / "absence.label").write_text("0\n" * frames)
    (folder / "cover.label").write_text("8\n" * frames)


def _background(
    canvas: NDArray[np.float32], frame_size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    width, height = frame_size
    left, top = rng.integers(_CANVAS - width), rng.integers(_CANVAS - height)
    part = canvas[top : top + height, left : left + width, rng.permutation(3)]
    values = np.clip(part * np.float32(_CONTRAST) + 118, 0, 255)
    image = np.ascontiguousarray(values, dtype=np.uint8)
    for _ in range(12):
        corners = rng.uniform((0, 0), frame_size, (1, 2)) + rng.normal(0, width / 12, (5, 2))
        colour = rng.integers(20, 236, 3).tolist()
        hull = cv2.convexHull(corners.astype(np.int32))
        shape = cv2.fillConvexPoly(np.zeros_like(image), hull, colour)
        inside = shape.any(axis=-1)
        image[inside] = (0.6 * shape[inside] + 0.4 * image[inside]).astype(np.uint8)
    return image


def _object_box(frame_size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = frame_size
    w, h = rng.uniform(*_SIDES, 2) * width
    return float(rng.uniform(0, width - w)), float(rng.uniform(0, max(height - h, 1))), w, h


def _paint_object(image: NDArray[np.uint8], xywh: tuple[float, float, float, float], rng: np.random.Generator) -> None:
    x, y, w, h = xywh
    centre, half = (int(x + w / 2), int(y + h / 2)), (int(w / 2), int(h / 2))
    cv2.ellipse(image, centre, half, 0, 0, 360, rng.integers(0, 256, 3).tolist(), -1)
    inner = (half[0] // 2, half[1] // 2)
    cv2.ellipse(image, centre, inner, 0, 0, 360, rng.integers(0, 256, 3).tolist(), -1)
