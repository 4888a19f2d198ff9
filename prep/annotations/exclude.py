"""What a build leaves out because an audit found it damaged.

Promise: a sequence with damage as a whole is dropped; a damaged frame becomes not visible, so no pair is drawn from it
while frame distances stay the video's. Notes of the audit exclude nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lorat.prep.annotations.cleaning import cut_frames
from lorat.prep.audit.report import load_report
from lorat.prep.trees.base.clip import Clip


@dataclass(frozen=True, slots=True)
class Exclusions:
    """What to leave out of one split, ``<dataset>-<split>``."""

    split: str
    sequences: frozenset[str] = frozenset()
    """To drop."""
    frames: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Sequence → its damaged frames, counted from 0 as the reader gives the sequence."""

    def fingerprint(self) -> str:
        """Return a hash of what is left out, 16 hexadecimal digits; empty where that is nothing."""
        frames = {sequence: sorted(numbers) for sequence, numbers in self.frames.items() if numbers}
        if not self.sequences and not frames:
            return ""
        content = {
            "sequences": {self.split: sorted(self.sequences)} if self.sequences else {},
            "frames": {self.split: frames} if frames else {},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_exclusions(report: Path) -> dict[str, Exclusions]:
    """Return what a report of the check excludes from each split; errors are `load_report`'s."""
    exclusions = {}
    for split, audit in load_report(report).items():
        damaged = {
            sequence: [finding.frames for finding in findings if finding.severity == "damage"]
            for sequence, findings in audit.sequences.items()
        }
        whole = frozenset(sequence for sequence, found in damaged.items() if not all(found))
        frames = {s: frozenset().union(*found) for s, found in damaged.items() if found and s not in whole}
        exclusions[split] = Exclusions(split, whole, frames)
    return exclusions


def exclude_clips(clips: Iterable[Clip], exclusions: Exclusions) -> list[Clip]:
    """Return the clips of a split, as read or cleaned, without what is excluded.

    Damaged frames at the head are cut off, so that a sequence's first image can be read for its size; others stay in
    place, not visible. A sequence with nothing else is dropped.
    """
    kept = (
        _without(clip, exclusions.frames.get(clip.name, frozenset()))
        for clip in clips
        if clip.name not in exclusions.sequences
    )
    return [clip for clip in kept if clip is not None]


def _without(clip: Clip, numbers: frozenset[int]) -> Clip | None:
    """Return a clip in which these frames are not visible, or None where no other is left."""
    if not numbers:
        return clip
    damaged = np.array([clip.first + i in numbers for i in range(len(clip.frames))])
    if damaged.all():
        return None
    tracks = tuple(replace(track, visible=track.visible & ~damaged) for track in clip.tracks)
    return cut_frames(replace(clip, tracks=tracks), int(np.argmin(damaged)), len(damaged))
