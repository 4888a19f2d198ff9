from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lorat.prep.build import BuildOptions, build
from lorat.prep.trees.clip import Clip, FrameFiles, Track
from lorat.shards.jpeg import encode

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(2)
    cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of arrays and photographs beside the checkout; tests skip where it is missing."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared here")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


def write_clip(folder: Path, name: str, frames: int, seed: int) -> Clip:
    """A patch that moves over noise, with one frame in the middle where it is not visible."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 120, (96, 128, 3), dtype=np.uint8)
    patch = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (32, 24))
    folder = folder / name
    folder.mkdir(parents=True)
    boxes = np.full((frames, 4), np.nan)
    for i in range(frames):
        x, y = 10 + 5 * i, 20 + 3 * i + seed % 5
        image = ground.copy()
        image[y : y + 24, x : x + 32] = patch
        boxes[i] = (x, y, x + 32, y + 24)
        (folder / f"{i + 1:08d}.jpg").write_bytes(encode(image, 95))
    visible = np.ones(frames, dtype=bool)
    if frames > 4:
        visible[frames // 2] = False
    files = FrameFiles(folder, range(1, frames + 1), "%08d.jpg")
    return Clip("toy", "train", name, files, (Track(boxes, visible),), frames)


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Four sequences of 1 to 9 frames, 128 x 96 pixels."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder, f"seq-{n}", n, seed) for seed, n in enumerate((1, 5, 7, 9))]


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory, tiny_clips: list[Clip]) -> Path:
    """Two shard sets of the tiny clips: toy-train (48 pairs in 3 shards) and toy-val (20 in 2)."""
    folder = tmp_path_factory.mktemp("shards")
    build(tiny_clips, folder, BuildOptions(pairs=48, shard_pairs=16, workers=1))
    clips = [replace(clip, split="val") for clip in tiny_clips]
    build(clips, folder, BuildOptions(pairs=20, shard_pairs=10, workers=1))
    return folder
