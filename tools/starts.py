"""Cuts the sequences of a test set into ones that start later, to track each from several starts: one start lost early
says less about a tracker than four do (the temporal robustness evaluation of OTB, with four segments).

python tools/starts.py SET NAME=DIR OUT

SET is a test set (otb), NAME=DIR its tree as `lorat-eval --root` takes it. OUT, a new folder, becomes a generic tree
with the split test: of every sequence what follows 0, 20, 40 and 60 per cent of its frames, from the first that shows
the object, as `<sequence>-<first frame>`; frames are linked, not copied.
"""

import sys
from pathlib import Path

import numpy as np

from lorat.evaluate.track.testsets import choose_test_sets
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.pixels.geometry import xyxy_to_xywh

STARTS = (0, 20, 40, 60)  # per cent


def cut(clip: Clip, first: int, out: Path) -> None:
    """Write what follows the frame with number `first`, counted from 0."""
    track, images = clip.tracks[0], out / "img"
    images.mkdir(parents=True)
    rows = (",".join(f"{value:.10g}" for value in box) for box in np.nan_to_num(xyxy_to_xywh(track.boxes[first:])))
    (out / "groundtruth.txt").write_text("".join(f"{row}\n" for row in rows))
    (out / "absent.txt").write_text("".join(f"{int(not seen)}\n" for seen in track.visible[first:]))
    for number in range(first, len(clip.frames)):
        frame = clip.frames[number].resolve()
        (images / f"{number:08d}{frame.suffix}").symlink_to(frame)


def main(name: str, root: str, out: Path) -> None:
    """Cut every sequence whose truth is there."""
    if out.exists():
        raise SystemExit(f"{out}: is there already; name a new folder")
    (tests,) = choose_test_sets([name], [], TreeOptions(root=(root,)))
    for clip in tests.clips:
        if clip.annotated < len(clip.frames):
            print(f"{clip.name}: {clip.annotated} boxes for {len(clip.frames)} frames, left out")
            continue
        seen = np.flatnonzero(clip.tracks[0].visible)
        earliest = [seen[seen >= len(clip.frames) * share // 100] for share in STARTS]
        for first in sorted({int(later[0]) for later in earliest if later.size}):
            cut(clip, first, out / "test" / f"{clip.name}-{first:03d}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
