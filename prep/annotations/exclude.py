"""What a build leaves out because an audit found it damaged.

Promise: a sequence with damage as a whole is dropped; a damaged frame becomes not visible, so no
pair is drawn from it while frame distances stay the video's. Notes of the audit exclude nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lorat.prep.audit.report import Finding, load_report
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track

__all__ = ["Exclusions", "exclude_clips", "load_exclusions"]


@dataclass(frozen=True)
class Exclusions:
    """Sequences and frames to leave out, by ``<dataset>-<split>``.

    Every split that was audited is a key of both mappings, whether or not anything was found.
    """

    sequences: Mapping[str, frozenset[str]]
    """Split → names of the sequences to drop."""
    frames: Mapping[str, Mapping[str, frozenset[int]]]
    """Split → sequence → its damaged frames, counted from 0 as the reader gives the sequence."""

    def of(self, name: str) -> Exclusions:
        """Return what concerns one split."""
        sequences = {name: self.sequences[name]} if self.sequences.get(name) else {}
        frames = {name: self.frames[name]} if self.frames.get(name) else {}
        return Exclusions(sequences, frames)

    def fingerprint(self) -> str:
        """Return a hash of what is left out, 16 hexadecimal digits; empty where that is nothing."""
        content = {
            "sequences": {name: sorted(names) for name, names in self.sequences.items() if names},
            "frames": {
                name: {sequence: sorted(numbers) for sequence, numbers in frames.items() if numbers}
                for name, frames in self.frames.items()
                if any(frames.values())
            },
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
            sequence: [finding for finding in findings if finding.severity == "damage"]
            for sequence, findings in audit.sequences.items()
        }
        whole = frozenset(s for s, found in damaged.items() if any(not f.frames for f in found))
        sequences[name] = whole
        frames[name] = {s: _frames(f) for s, f in damaged.items() if f and s not in whole}
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
        if clip.name in exclusions.sequences.get(name, frozenset()):
            continue
        numbers = exclusions.frames.get(name, {}).get(clip.name)
        remaining = _without(clip, numbers) if numbers else clip
        if remaining is not None:
            kept.append(remaining)
    return kept


def _frames(findings: Iterable[Finding]) -> frozenset[int]:
    return frozenset(number for finding in findings for number in finding.frames)


def _without(clip: Clip, numbers: frozenset[int]) -> Clip | None:
    """Return a clip in which these frames are not visible, or None where no other is left."""
    damaged = np.array([clip.first + i in numbers for i in range(len(clip.frames))])
    if damaged.all():
        return None
    head = int(np.argmin(damaged))
    gone = damaged[head:]
    files = FrameFiles(clip.frames.folder, clip.frames.names[head:], clip.frames.pattern)
    tracks = tuple(
        Track(
            track.boxes[head:],
            track.visible[head:] & ~gone,
            None if track.cover is None else track.cover[head:],
        )
        for track in clip.tracks
    )
    annotated = max(clip.annotated - head, 0)
    return replace(clip, frames=files, tracks=tracks, annotated=annotated, first=clip.first + head)
