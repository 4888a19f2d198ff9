"""Small trees for the reader tests."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from lorat.shards.pixels.jpeg import encode

_IMAGE = encode(np.full((8, 8, 3), 128, np.uint8))


@pytest.fixture
def images() -> Callable[[Path, Iterable[str]], None]:
    """Write 8×8 JPEGs with these names into a folder."""

    def write(folder: Path, names: Iterable[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(_IMAGE)

    return write


@pytest.fixture
def files() -> Callable[..., None]:
    """Write text files: ``files(folder, {"a/b.txt": "text"})``."""

    def write(folder: Path, texts: dict[str, str]) -> None:
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text.encode())

    return write
