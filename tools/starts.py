"""Cuts the sequences of a generic tree into ones that start later, to track each from several starts: one start lost
early says less about a tracker than four do (the temporal robustness evaluation of OTB, with four segments).

python tools/starts.py TREE/test OUT/test

Of every sequence (`groundtruth.txt`, frames in `img`) OUT gets what follows 0, 20, 40 and 60 per cent of its frames, as
`<sequence>-<first frame>`; frames are linked, not copied.
"""

import sys
from pathlib import Path

STARTS = (0, 20, 40, 60)  # per cent


def cut(sequence: Path, first: int, out: Path) -> None:
    """Write what follows the frame with number `first`, counted from 0."""
    boxes = (sequence / "groundtruth.txt").read_text().splitlines()[first:]
    frames = sorted((sequence / "img").glob("*.jpg"))[first:]
    if len(boxes) != len(frames):
        raise SystemExit(f"{sequence}: {len(frames) + first} JPEG images in img, {len(boxes) + first} boxes")
    (out / "img").mkdir(parents=True)
    (out / "groundtruth.txt").write_text("".join(f"{box}\n" for box in boxes))
    for frame in frames:
        (out / "img" / frame.name).symlink_to(frame.resolve())


def main(tree: Path, out: Path) -> None:
    """Cut every sequence of a split."""
    sequences = sorted(file.parent for file in tree.glob("*/groundtruth.txt"))
    if not sequences:
        raise SystemExit(f"{tree}: no <sequence>/groundtruth.txt")
    for sequence in sequences:
        frames = len(list((sequence / "img").glob("*.jpg")))
        for first in (frames * share // 100 for share in STARTS):
            cut(sequence, first, out / f"{sequence.name}-{first:03d}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
