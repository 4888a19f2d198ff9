"""What a build leaves out because an audit found it damaged.

Promise: a sequence with damage as a whole is dropped; a damaged frame becomes not visible, so no
pair is drawn from it while frame distances stay the video's. Notes of the audit exclude nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lorat.prep.annotations.cleaning import cut_frames
from lorat.prep.audit.report import load_report
from lorat.prep.trees.base.clip import Clip


@dataclass(frozen=True)
class Exclusions:
    """Sequences and frames to leave out, by ``<dataset>-<split>``.

    Every split that was audited is a key of both mappings, whether or not anything was found.
    """

    sequences: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Split → names of the sequences to drop."""
    frames: Mapping[str, Mapping[str, frozenset[int]]] = field(default_factory=dict)
    """Split → sequence → its damaged frames, counted from 0 as the reader gives the sequence."""

    def of(self, name: str) -> Exclusions:
        """Return what concerns one split."""
        return Exclusions(
            {name: self.sequences.get(name, frozenset())}, {name: self.frames.get(name, {})}
        )

    def fingerprint(self) -> str:
        """Return a hash of what is left out, 16 hexadecimal digits; empty where that is nothing."""
        frames = {
            name: {sequence: sorted(numbers) for sequence, numbers in found.items() if numbers}
            for name, found in self.frames.items()
        }
        content = {
            "sequences": {name: sorted(names) for name, names in self.sequences.items() if names},
            "frames": {name: found for name, found in frames.items() if found},
        }
        if not any(content.values()):
            return ""
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_exclusions(report: Path) -> Exclusions:
    """Return what a report of ``lorat-prep check`` excludes.

    Raises:
        UserError: if the file is missing, is no such report, or one of another version.
    """
    sequences: dict[str, frozenset[str]] = {}
    frames: dict[str, dict[str, frozenset[int]]] = {}
    for name, audit in load_report(report).items():
        damaged = {
            sequence: [finding.frames for finding in findings if finding.severity == "damage"]
            for sequence, findings in audit.sequences.items()
        }
        whole = frozenset(sequence for sequence, found in damaged.items() if not all(found))
        sequences[name] = whole
        frames[name] = {
            s: frozenset().union(*found) for s, found in damaged.items() if found and s not in whole
        }
    return Exclusions(sequences, frames)


def exclude_clips(clips: Iterable[Clip], exclusions: Exclusions) -> list[Clip]:
    """Return the clips without what is excluded.

    Damaged frames at the head are cut off, so that a sequence's first image can be read for its
    size; others stay in place, not visible. A sequence with nothing else is dropped.

    Args:
        clips: of any splits, as read or cleaned.
        exclusions: what to leave out.
    """
    kept = []
    for clip in clips:
        name = f"{clip.dataset}-{clip.split}"
        if clip.name in exclusions.sequences.get(name, ()):
            continue
        numbers = exclusions.frames.get(name, {}).get(clip.name)
        remaining = _without(clip, numbers) if numbers else clip
        if remaining is not None:
            kept.append(remaining)
    return kept


def _without(clip: Clip, numbers: frozenset[int]) -> Clip | None:
    """Return a clip in which these frames are not visible, or None where no other is left."""
    damaged = np.array([clip.first + i in numbers for i in range(len(clip.frames))])
    if damaged.all():
        return None
    tracks = tuple(replace(track, visible=track.visible & ~damaged) for track in clip.tracks)
    return cut_frames(replace(clip, tracks=tracks), int(np.argmin(damaged)), len(damaged))
