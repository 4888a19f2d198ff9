"""One hash for the cleaned annotations of a data set: what pairs are drawn from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from lorat.prep.trees.base.clip import Clip

__all__ = ["AnnotationsDigest", "annotations_fingerprint"]


class AnnotationsDigest:
    """Hashes names, lengths, frame sizes, boxes and visibility of clips, one after the other."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, clip: Clip) -> None:
        """Take in one cleaned clip."""
        head = f"{clip.name}\0{len(clip.frames)}\0{clip.frame_size()}\0"
        self._digest.update(head.encode("utf-8", "surrogatepass"))
        for track in clip.tracks:
            boxes = np.nan_to_num(track.boxes, nan=-1.0).astype("<f8", copy=False)
            self._digest.update(np.ascontiguousarray(boxes).data)
            self._digest.update(np.ascontiguousarray(track.visible).data)

    def fingerprint(self) -> str:
        """Return the hash of all clips so far, 16 hexadecimal digits."""
        return self._digest.hexdigest()[:16]


def annotations_fingerprint(clips: Iterable[Clip]) -> str:
    """Return the hash of cleaned clips in their order; the same wherever the tree lies."""
    digest = AnnotationsDigest()
    for clip in clips:
        digest.add(clip)
    return digest.fingerprint()
