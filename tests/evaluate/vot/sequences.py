"""Sequences as VOT's workspaces have them, with the pictures of the other tests."""

from pathlib import Path

import numpy as np

from tests.evaluate.conftest import SIZE, moving_box, write_frames

FRAMES = 12


def rectangle(box: np.ndarray) -> str:
    x1, y1, x2, y2 = box
    return f"{x1},{y1},{x2 - x1},{y2 - y1}"


def mask(box: np.ndarray) -> str:
    """An ellipse as the toolkit writes masks: a window, and lengths of runs in it, of zeros first."""
    x1, y1, x2, y2 = box.astype(int)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1
    window = inside[y1 - 2 : y2 + 3, x1 - 3 : x2 + 2].ravel()
    ends = np.flatnonzero(np.diff(np.concatenate([[False], window, [not window[-1]]])))
    runs = np.diff(np.concatenate([[0], ends]))
    return ",".join(map(str, (f"m{x1 - 3}", y1 - 2, x2 - x1 + 5, y2 - y1 + 5, *runs)))


def write_sequence(folder: Path, seed: int, objects: int = 1, write=rectangle) -> None:
    """One sequence with frames, the truth of each object, and anchors at both ends."""
    write_frames(folder / "color", FRAMES, seed)
    (folder / "sequence").write_text(f"name={folder.name}\nfps=30\nformat=default\nchannels.color=color/%08d.jpg\n")
    for number in range(objects):
        name = f"groundtruth_{number + 1:03d}.txt" if objects > 1 else "groundtruth.txt"
        boxes = [moving_box(index, seed) + 5 * number for index in range(FRAMES)]
        (folder / name).write_text("".join(f"{write(box)}\n" for box in boxes))
    (folder / "anchor.value").write_text("1\n" + "0\n" * (FRAMES - 2) + "-1\n")


def write_sequences(folder: Path, objects: int = 1, count: int = 2, write=rectangle) -> Path:
    names = [f"seq-{number}" for number in range(count)]
    for number, name in enumerate(names):
        write_sequence(folder / name, number, objects, write)
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))
    return folder
