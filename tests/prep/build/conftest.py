from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorat.shards.pixels.jpeg import encode


@pytest.fixture(scope="session")
def write_tree() -> Callable[..., Path]:
    """Writes a generic tree of noise images with a box in the middle."""

    def write(root: Path, sequences: int = 1, frames: int = 6, width: int = 80) -> Path:
        rng = np.random.default_rng(0)
        unit = width // 4
        for folder in (root / "train" / f"seq-{number}" for number in range(sequences)):
            folder.mkdir(parents=True)
            for frame in range(frames):
                image = rng.integers(0, 256, (unit * 3, width, 3), dtype=np.uint8)
                (folder / f"{frame}.jpg").write_bytes(encode(image))
            (folder / "groundtruth.txt").write_text(f"{unit},{unit},{unit * 2},{unit}\n" * frames)
        return root

    return write
