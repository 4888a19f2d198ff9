"""What an audit finds in one sequence, from its annotations and from what was seen of its images.

Pure. Damage is what a build or a tracker would stumble over: a frame that is missing or does not
decode, annotations that do not belong to the images, a first box that no tracker can start from.
Everything else is a note, because published trees have it: boxes outside the frame, frames of
another size, images behind the last annotated one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lorat.prep.audit.images import ImageFacts
from lorat.prep.trees.base.clip import Clip

__all__ = [
    "BoxCounts",
    "Finding",
    "Severity",
    "check_frame_count",
    "check_sequence",
    "check_stated_size",
    "count_boxes",
]

_MORE_IMAGES = ("extra images", "annotations")
Severity = Literal["damage", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found in a sequence, or in a split as a whole."""

    kind: str
    severity: Severity
    message: str
    """One line that names the file."""
    frames: tuple[int, ...] = ()
    """Its frames, counted from 0 as the reader gives the sequence; empty: all of the sequence."""


@dataclass(frozen=True, slots=True)
class BoxCounts:
    """Annotated boxes of a split by what is wrong with them; sums with ``+``."""

    rows: int = 0
    absent: int = 0
    """Not visible, by the tree's flags or because the box has no size."""
    degenerate: int = 0
    """Without size, or not finite."""
    outside: int = 0
    """Visible, and wholly outside the image."""

    def __add__(self, other: BoxCounts) -> BoxCounts:
        return BoxCounts(
            self.rows + other.rows,
            self.absent + other.absent,
            self.degenerate + other.degenerate,
            self.outside + other.outside,
        )


def count_boxes(clip: Clip, size: tuple[int, int] | None) -> BoxCounts:
    """Count a clip's annotated boxes.

    Args:
        clip: as read.
        size: (width, height) of its images; None where it is not known: no box is outside then.
    """
    boxes, visible = _annotated(clip)
    with np.errstate(invalid="ignore"):  # inf - inf
        sized = np.isfinite(boxes).all(-1) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
    outside = visible & _outside(boxes, size)
    counts = (visible.size, (~visible).sum(), (~sized).sum(), outside.sum())
    return BoxCounts(*map(int, counts))


def check_sequence(clip: Clip, facts: ImageFacts, *, scored: bool) -> list[Finding]:
    """Return what is wrong with a sequence, in a fixed order.

    Args:
        clip: as read.
        facts: what was seen of its images.
        scored: whether trackers are started on its first frame.
    """
    if not len(clip.frames):
        message = f"{clip.frames.folder}: no image belongs to an annotated frame of {clip.name}"
        return [Finding("no frames", "damage", message)]
    return [*_image_findings(clip, facts), *_box_findings(clip, facts.size, scored)]


def check_frame_count(
    clip: Clip, published: int | None, found: Collection[Finding]
) -> list[Finding]:
    """Compare a sequence's frames with the published number.

    Fewer are damage where images lie on disk that belong to no annotation: the annotations were
    cut. Otherwise another edition of the data set is as likely, so it is a note.

    Args:
        clip: as read.
        published: its frames; None where they are not known.
        found: what else was found in the sequence.
    """
    count = len(clip.frames)
    if published is None or count == published:
        return []
    cut = count < published and any(finding.kind in _MORE_IMAGES for finding in found)
    where = f"{clip.frames.folder}: {clip.name}"
    message = f"{where}: {count:,} annotated frames, published with {published:,}"
    if not cut:
        return [Finding("frame count", "note", message)]
    remedy = "though images are there; restore the annotation files"
    return [Finding("frame count", "damage", f"{message}, {remedy}")]


def check_stated_size(
    clip: Clip, stated: tuple[int, int] | None, facts: ImageFacts
) -> list[Finding]:
    """Compare the size that a sequence's meta data states with the first image's; a note."""
    size = facts.size
    if stated is None or size is None or stated == size:
        return []
    message = (
        f"{clip.frames.folder}: images are {_by(size)} pixels, the meta data say {_by(stated)}"
    )
    return [Finding("stated size", "note", message)]


def _image_findings(clip: Clip, facts: ImageFacts) -> Iterator[Finding]:
    folder, count = clip.frames.folder, len(clip.frames)
    if len(facts.missing) == count:
        message = f"{folder}: none of the {count:,} images is there; restore them"
        yield Finding("missing image", "damage", message)
    elif facts.missing:
        first = clip.frames[min(facts.missing) - clip.first]
        message = f"{first}: missing{_others(facts.missing)}; restore the image"
        yield Finding("missing image", "damage", message, _sorted(facts.missing))
    if facts.unreadable:
        first_error = facts.unreadable[min(facts.unreadable)]
        message = f"{first_error}{_others(facts.unreadable)}"
        yield Finding("damaged image", "damage", message, _sorted(facts.unreadable))
    size = facts.size
    if size is not None and clip.size is not None and clip.size != size:
        message = (
            f"{clip.frames[0]}: is {_by(size)} pixels, the annotations say {_by(clip.size)}; "
            "restore the image"
        )
        yield Finding("annotated size", "damage", message)
    others = [n for other, frames in facts.sizes.items() if other != size for n in frames]
    if size is not None and others:
        first = clip.frames[min(others) - clip.first]
        message = f"{first}: is not {_by(size)} pixels as the first image is{_others(others)}"
        yield Finding("frame size", "note", message, _sorted(others))
    if facts.extra > 0:
        message = f"{folder}: {facts.extra:,} images belong to no annotated frame"
        yield Finding("extra images", "note", message)


def _box_findings(clip: Clip, size: tuple[int, int] | None, scored: bool) -> Iterator[Finding]:
    boxes, visible = _annotated(clip)
    outside = visible & _outside(boxes, size)
    usable = np.logical_or.reduce(visible & ~outside, axis=0)
    where = f"{clip.frames.folder}: {clip.name}"
    if not usable.any():
        severity: Severity = "damage" if scored else "note"
        yield Finding("no object", severity, f"{where}: no frame has a usable box")
    elif not usable[0]:
        message = f"{where}: the first frame has no usable box"
        if scored:
            message += ", so no tracker can start there"
            yield Finding("first frame", "damage", message, (clip.first,))
        else:
            message += f"; training starts at frame {clip.first + int(np.argmax(usable))}"
            yield Finding("first frame", "note", message, (clip.first,))
    frames = np.flatnonzero(outside.any(axis=0)) + clip.first
    if len(frames) and size is not None:
        message = f"{where}: visible boxes outside the image ({_by(size)}) in {len(frames)} frames"
        yield Finding("box outside", "note", message, tuple(frames.tolist()))


def _annotated(clip: Clip) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the annotated rows of all tracks: (T, R, 4) boxes and (T, R) visible."""
    rows = min(clip.annotated, len(clip.frames))
    boxes = np.stack([track.boxes[:rows] for track in clip.tracks])
    return boxes, np.stack([track.visible[:rows] for track in clip.tracks])


def _outside(boxes: NDArray[np.float64], size: tuple[int, int] | None) -> NDArray[np.bool_]:
    """Return which of (…, 4) boxes share no area with the image; NaN rows do not count."""
    if size is None:
        return np.zeros(boxes.shape[:-1], np.bool_)
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)
    return (left >= size[0]) | (top >= size[1]) | (right <= 0) | (bottom <= 0)


def _others(frames: Collection[int]) -> str:
    more = len(frames) - 1
    return f" (and {more:,} more frames)" if more else ""


def _sorted(frames: Collection[int]) -> tuple[int, ...]:
    return tuple(sorted(frames))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
