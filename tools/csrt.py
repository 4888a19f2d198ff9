"""Tracks sequences with OpenCV's CSRT from their first box, whole length, as a yardstick for a tracker of one's own.

python tools/csrt.py OUT SEQUENCE [SEQUENCE ...]

Runs in an environment of its own, with opencv-contrib-python and nothing of this project, since that package and
opencv-python are in each other's way. Each SEQUENCE is a folder with `groundtruth_rect.txt` or `groundtruth.txt`, of
whose first line x, y, w, h count from 1, and its frames in `img` or `color`. Writes OUT/<sequence>.txt, a box a frame
as in the annotations, which `lorat-eval score --layout otb` reads; where CSRT says that it lost the object,
the box before stands. How fast it was goes to stdout.
"""

import re
import sys
import time
from pathlib import Path

import cv2


def first_box(folder: Path) -> tuple[float, ...]:
    """Return x, y, w, h of the first frame, x and y from 0."""
    for name in ("groundtruth_rect.txt", "groundtruth.txt"):
        if (folder / name).is_file():
            line = (folder / name).read_text().splitlines()[0]
            x, y, w, h = (float(number) for number in re.split(r"[,\s]+", line.strip()))
            return x - 1, y - 1, w, h
    raise SystemExit(f"{folder}: no groundtruth_rect.txt and no groundtruth.txt")


def track(folder: Path, out: Path) -> None:
    """Track one sequence and write its boxes."""
    frames = sorted(path for inner in ("img", "color") for path in (folder / inner).glob("*.jpg"))
    if not frames:
        raise SystemExit(f"{folder}: no JPEG images in img or color")
    box, seconds, rows = first_box(folder), 0.0, []
    tracker = cv2.TrackerCSRT_create()
    for number, path in enumerate(frames):
        frame = cv2.imread(str(path))
        if frame is None:
            raise SystemExit(f"{path}: no image that OpenCV reads")
        start = time.perf_counter()
        if number == 0:
            tracker.init(frame, tuple(round(value) for value in box))
        else:
            found, new = tracker.update(frame)
            box = new if found else box
        seconds += time.perf_counter() - start
        rows.append(f"{box[0] + 1:g},{box[1] + 1:g},{box[2]:g},{box[3]:g}\n")
    (out / f"{folder.name}.txt").write_text("".join(rows))
    print(f"{folder.name}: {len(frames)} frames, {len(frames) / seconds:.0f} a second")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    print(f"CSRT of OpenCV {cv2.__version__}")
    for sequence in sys.argv[2:]:
        track(Path(sequence), folder)
