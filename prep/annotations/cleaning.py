"""Cleaning of one clip for training, in the published system's order.

Promise: every visible box of a cleaned clip lies in the frame and has size; every track has a
visible frame; so do the first and the last frame. Interior frames without a visible object stay,
with NaN boxes, so frame distances are the video's. Pure: reads no file, changes no argument.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.pixels.geometry import clip_boxes

__all__ = ["Cleaned", "Removed", "clean", "clean_counted"]


@dataclass(frozen=True, slots=True)
class Removed:
    """What cleaning took away; sums over clips with ``+``."""

    boxes: int = 0
    """Visible boxes that lie outside the frame or touch only its border."""
    tracks: int = 0
    """Objects without a visible frame."""
    frames: int = 0
    """Frames before the first and after the last visible one."""
    clips: int = 0
    """Sequences or images with nothing left."""

    def __add__(self, other: Removed) -> Removed:
        return Removed(
            self.boxes + other.boxes,
            self.tracks + other.tracks,
            self.frames + other.frames,
            self.clips + other.clips,
        )


@dataclass(frozen=True, eq=False, slots=True)
class Cleaned:
    """A cleaned clip, or None where nothing is left, and what was taken away."""

    clip: Clip | None
    removed: Removed


def clean(clip: Clip, frame_size: tuple[int, int]) -> Clip | None:
    """Return the clip as training draws from it, or None where nothing is left.

    Args:
        clip: as read.
        frame_size: (width, height) of its frames in pixels; a size of 0 leaves nothing.
    """
    return clean_counted(clip, frame_size).clip


def clean_counted(clip: Clip, frame_size: tuple[int, int]) -> Cleaned:
    """Clean a clip and count what was removed.

    The order: clip boxes to the frame; boxes without size become not visible; tracks without a
    visible frame go; frames before the first and after the last visible one go (published system,
    ``fit_in_image_size`` to ``integrity``).

    Args:
        clip: as read.
        frame_size: (width, height) of its frames in pixels; a size of 0 leaves nothing.
    """
    frames = len(clip.frames)
    if min(frame_size) <= 0:
        return Cleaned(None, Removed(tracks=len(clip.tracks), frames=frames, clips=1))
    fitted = [_fit(track, frame_size) for track in clip.tracks]
    before = sum(int(track.visible.sum()) for track in clip.tracks)
    boxes = before - sum(int(track.visible.sum()) for track in fitted)
    kept = [track for track in fitted if track.visible.any()]
    tracks = len(fitted) - len(kept)
    if not kept:
        return Cleaned(None, Removed(boxes, tracks, frames, clips=1))
    seen = np.flatnonzero(np.any([track.visible for track in kept], axis=0))
    start, end = int(seen[0]), int(seen[-1]) + 1
    removed = Removed(boxes, tracks, frames - (end - start))
    return Cleaned(_cut(clip, kept, start, end), removed)


def _fit(track: Track, frame_size: tuple[int, int]) -> Track:
    """Clip a track's visible boxes to the frame; all others become NaN."""
    boxes = np.full_like(track.boxes, np.nan)
    boxes[track.visible] = clip_boxes(track.boxes[track.visible], frame_size)
    # A comparison with NaN is False, so frames that were not visible stay so.
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes[~visible] = np.nan
    return Track(boxes, visible, track.cover)


def _cut(clip: Clip, tracks: list[Track], start: int, end: int) -> Clip:
    span = slice(start, end)
    frames = FrameFiles(clip.frames.folder, clip.frames.names[span], clip.frames.pattern)
    kept = tuple(
        Track(t.boxes[span], t.visible[span], None if t.cover is None else t.cover[span])
        for t in tracks
    )
    annotated = min(max(clip.annotated - start, 0), end - start)
    return Clip(
        clip.dataset, clip.split, clip.name, frames, kept, annotated, clip.size, clip.first + start
    )
