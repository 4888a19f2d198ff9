"""Index of a tree as large as TrackingNet's training split: time to write it, memory, time to open.

The tree is simulated: 30,132 annotation files with 465 rows on average (14 M in all), and one image a sequence, of
which only the header is ever read (all are links to one file). Writing and opening run in processes of their own, so
that peak memory is theirs alone, imports included. The files have just been written, so they are in the page cache; a
cold disk adds its own time.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lorat.shards.pixels.jpeg import encode

__all__ = ["run", "write_tree"]

_SEQUENCES = 30_132
_CHUNKS = 12
_ROWS = (310, 621)  # low and high, so 465 on average
_TEXTS = 251  # different annotation files; each is written many times

# Peak memory from /proc: what getrusage says survives exec, so it would count the parent too.
_CHILD = """
import json, sys, time
from pathlib import Path
from lorat.prep.annotations.index import indexed_clips
from lorat.prep.pairs.draw import draw_sample
from lorat.prep.trees.registry import DATASETS

start = time.perf_counter()
clips = indexed_clips(DATASETS["trackingnet"], "train", Path(sys.argv[1]), cache=Path(sys.argv[2]))
seconds = time.perf_counter() - start
start = time.perf_counter()
for number in range(2000):
    draw_sample(clips, "trackingnet-train", 42, number)
draw = (time.perf_counter() - start) / 2000
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "seconds": seconds, "draw": draw, "peak": int(status["VmHWM"].split()[0]) * 1024,
    "frames": clips.frames, "sequences": len(clips), "bytes": clips.path.stat().st_size,
}))
"""


def run(quick: bool) -> dict[str, float | str]:
    """Measure one index.

    Args:
        quick: a tree of a hundredth of the size.

    Returns:
        Sequences, frames, seconds to write and to open (median of 3), peak memory in MB (10⁶ bytes), the index's size,
        and microseconds to draw a pair from it.
    """
    with tempfile.TemporaryDirectory(prefix="lorat-bench-index-") as folder:
        tree, cache = Path(folder) / "TrackingNet", Path(folder) / "cache"
        write_tree(tree, _SEQUENCES // 100 if quick else _SEQUENCES)
        written = _measure(tree, cache)
        opened = sorted((_measure(tree, cache) for _ in range(3)), key=lambda found: found["seconds"])
    return {
        "index_sequences": written["sequences"],
        "index_frames": written["frames"],
        "index_write_s": round(written["seconds"], 2),
        "index_write_peak_mb": round(written["peak"] / 1e6, 1),
        "index_open_s": round(opened[1]["seconds"], 3),
        "index_open_peak_mb": round(opened[1]["peak"] / 1e6, 1),
        "index_mb": round(written["bytes"] / 1e6, 1),
        "index_draw_us": round(opened[1]["draw"] * 1e6, 1),
    }


def write_tree(root: Path, sequences: int) -> None:
    """Write a tree in TrackingNet's layout: annotations, and the first image of each sequence."""
    rng = np.random.default_rng(0)
    texts = [_annotation(rng) for _ in range(_TEXTS)]
    root.mkdir(parents=True)
    image = root / "image.jpg"
    image.write_bytes(encode(np.zeros((720, 1280, 3), np.uint8)))
    for number in range(sequences):
        chunk = root / f"TRAIN_{number % _CHUNKS}"
        if number < _CHUNKS:
            (chunk / "anno").mkdir(parents=True)
        name = f"v{number:09d}_0"
        (chunk / "anno" / f"{name}.txt").write_bytes(texts[number % _TEXTS])
        folder = chunk / "frames" / name
        folder.mkdir(parents=True)
        os.link(image, folder / "0.jpg")


def _annotation(rng: np.random.Generator) -> bytes:
    """Return a box that wanders through a 1280 × 720 frame, a line a frame."""
    rows = int(rng.integers(*_ROWS))
    start = rng.uniform((0, 0, 40, 40), (900, 500, 300, 200))
    walk = start + rng.normal(0.0, 1.5, (rows, 4)).cumsum(axis=0)
    boxes = np.clip(walk, (0, 0, 12, 12), (1200, 700, 600, 400))
    return "".join(f"{x:.2f},{y:.2f},{w:.2f},{h:.2f}\n" for x, y, w, h in boxes).encode()


def _measure(tree: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-c", _CHILD, str(tree), str(cache)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv), indent=1))
