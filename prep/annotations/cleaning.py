"""Cleaning of one clip for training, in the published system's order.

Promise: every visible box of a cleaned clip lies in the frame and has size; every track has a visible frame; so do the
first and the last frame. Interior frames without a visible object stay, with NaN boxes, so frame distances are the
video's. Pure: reads no file, changes no argument.
"""

from dataclasses import replace

import numpy as np

from lorat.prep.trees.base.clip import Clip, Track
from lorat.shards.pixels.geometry import clip_boxes


def clean(clip: Clip, frame_size: tuple[int, int]) -> Clip | None:
    """Return the clip as training draws from it, or None where nothing is left. The order: clip boxes to the frame;
    boxes without size become not visible; tracks without a visible frame go; frames before the first and after the last
    visible one go (published system, ``fit_in_image_size`` to ``integrity``). A `frame_size`, (width, height) in
    pixels, of 0 leaves nothing.
    """
    fitted = [_fit(track, frame_size) for track in clip.tracks] if min(frame_size) > 0 else []
    kept = tuple(track for track in fitted if track.visible.any())
    if not kept:
        return None
    seen = np.flatnonzero(np.any([track.visible for track in kept], axis=0))
    return cut_frames(replace(clip, tracks=kept), int(seen[0]), int(seen[-1]) + 1)


def cut_frames(clip: Clip, start: int, end: int) -> Clip:
    """Return frames `start` to `end` - 1 of a clip; they remember where they were in the tree."""
    span = slice(start, end)
    return replace(
        clip,
        frames=replace(clip.frames, names=clip.frames.names[span]),
        tracks=tuple(
            Track(t.boxes[span], t.visible[span], None if t.cover is None else t.cover[span]) for t in clip.tracks
        ),
        annotated=min(max(clip.annotated - start, 0), end - start),
        first=clip.first + start,
    )


def _fit(track: Track, frame_size: tuple[int, int]) -> Track:
    """Clip a track's visible boxes to the frame; all others become NaN."""
    boxes = np.full_like(track.boxes, np.nan)
    boxes[track.visible] = clip_boxes(track.boxes[track.visible], frame_size)
    # A comparison with NaN is False, so frames that were not visible stay so.
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes[~visible] = np.nan
    return Track(boxes, visible, track.cover)
