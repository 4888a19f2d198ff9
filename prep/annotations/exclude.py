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
    sequences: frozenset[str] = frozenset()  # to drop
    frames: Mapping[str, frozenset[int]] = field(default_factory=dict)  # sequence → those damaged, as its reader counts

    def fingerprint(self) -> str:
        """Return a hash of what is left out, 16 hexadecimal digits; empty where that is nothing."""
        frames = {sequence: sorted(numbers) for sequence, numbers in self.frames.items() if numbers}
        if not self.sequences and not frames:
            return ""
        sequences = {self.split: sorted(self.sequences)} if self.sequences else {}
        content = {"sequences": sequences, "frames": {self.split: frames} if frames else {}}
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
    """Return the clips of a split, as read or cleaned, without what is excluded, if that leaves a frame. Damaged frames
    at the head are cut off, so that a sequence's first image tells its size; others are not visible.
    """
    kept = []
    for clip in clips:
        numbers = exclusions.frames.get(clip.name)
        damaged = np.array([clip.first + i in numbers for i in range(len(clip.frames))]) if numbers else None
        if clip.name in exclusions.sequences or (damaged is not None and damaged.all()):
            continue
        if damaged is not None:
            tracks = tuple(replace(track, visible=track.visible & ~damaged) for track in clip.tracks)
            clip = cut_frames(replace(clip, tracks=tracks), int(np.argmin(damaged)), len(damaged))
        kept.append(clip)
    return kept
