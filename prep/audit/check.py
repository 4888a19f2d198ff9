"""Audits raw trees: every sequence by itself, so that one that is broken hides no other.

Promise: nothing is changed in the tree; an annotation file that does not parse, a missing or
damaged image is a finding of its sequence and never ends the audit; the findings are the same
whatever the number of workers. Only the first and the last image of a sequence are decoded unless
the check is deep; that the frames between them exist is looked up where their names are computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

from lorat.prep.audit.findings import (
    BoxCounts,
    Finding,
    check_frame_count,
    check_sequence,
    check_stated_size,
    count_boxes,
)
from lorat.prep.audit.images import ImageFacts, Look, batches, look_at, plan_looks
from lorat.prep.audit.report import SplitAudit
from lorat.prep.pool import LocalEngine, Tell
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.official import expected_frames, expected_sequences
from lorat.prep.trees.base.reading import Fault, reading
from lorat.prep.trees.sources import Source
from lorat.shards.base.errors import UserError

__all__ = ["CheckOptions", "audit"]

Progress = Callable[[int, int], None]
_RESOLUTION = re.compile(r"^resolution:\s*\((\d+),\s*(\d+)\)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How thoroughly, and in how many processes."""

    deep: bool = False
    """Decode every image, not just the first and the last of each sequence."""
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Tree:
    """A split as far as it can be read."""

    clips: list[Clip]
    faults: list[Fault]
    """Of single sequences."""
    trouble: str | None
    """Why nothing was read."""


def read_tree(source: Source, progress: Progress | None = None) -> Tree:
    """Read every sequence of a split that can be read.

    Args:
        source: the split and its folder.
        progress: called with (sequences read, sequences).
    """
    faults: list[Fault] = []
    try:
        with reading(faults=faults, progress=progress):
            clips = source.dataset.read(source.dataset, source.split, source.root)
    except UserError as error:
        return Tree([], faults, error.message)
    if clips or any(fault.damage for fault in faults):
        return Tree(clips, faults, None)
    return Tree([], faults, f"{source.root}: holds no sequence of {source.name}; is it its folder?")


def audit(
    source: Source, tree: Tree, options: CheckOptions, progress: Progress | None = None
) -> SplitAudit:
    """Audit one split of a tree.

    Args:
        source: the split and its folder.
        tree: what `read_tree` returned for it.
        options: how.
        progress: called with (images decoded, images to decode).

    Raises:
        UserError: when a worker process was killed. What is wrong with the tree is a finding.
    """
    facts = _see_images(tree.clips, options, progress)
    findings = _findings(source, tree, facts)
    boxes = (count_boxes(clip, seen.size) for clip, seen in zip(tree.clips, facts, strict=True))
    published = expected_frames(source.dataset.name, source.split)
    lost = {fault.sequence for fault in tree.faults if fault.damage}
    sequences = len(lost | {clip.name for clip in tree.clips})
    official = expected_sequences(source.dataset.name, source.split)
    return SplitAudit(
        source.name,
        str(source.root),
        options.deep,
        sequences=sequences,
        expected_sequences=official,
        frames=sum(len(clip.frames) for clip in tree.clips),
        expected_frames=sum(published.values()) if published else None,
        decoded=sum(seen.decoded for seen in facts),
        boxes=reduce(add, boxes, BoxCounts()),
        split_findings=_split_findings(source, tree.trouble, sequences, official),
        findings={name: tuple(found) for name, found in sorted(findings.items())},
    )


def _findings(source: Source, tree: Tree, facts: list[ImageFacts]) -> dict[str, list[Finding]]:
    """Return sequence → findings, for sequences that have any."""
    findings: dict[str, list[Finding]] = {}
    for fault in tree.faults:
        found = Finding("annotations", "damage" if fault.damage else "note", fault.message)
        findings.setdefault(fault.sequence, []).append(found)
    published: Mapping[str, int] = expected_frames(source.dataset.name, source.split) or {}
    scored = source.dataset.eval_split is not None and (
        source.split in (source.dataset.eval_split, "val", "test")
    )
    for clip, seen in zip(tree.clips, facts, strict=True):
        of_clip = findings.pop(clip.name, [])
        of_clip += check_sequence(clip, seen, scored=scored)
        if source.dataset.name == "got10k":
            of_clip += check_stated_size(clip, _stated_size(clip.frames.folder), seen)
        of_clip += check_frame_count(clip, published.get(clip.name), of_clip)
        if of_clip:
            findings[clip.name] = of_clip
    return findings


def _split_findings(
    source: Source, trouble: str | None, sequences: int, official: int | None
) -> tuple[Finding, ...]:
    if trouble is not None:
        return (Finding("tree", "damage", trouble),)
    if official is None or sequences == official:
        return ()
    message = f"{source.root}: {sequences:,} of {official:,} published sequences"
    return (Finding("sequence count", "note", message),)


def _see_images(
    clips: list[Clip], options: CheckOptions, progress: Progress | None
) -> list[ImageFacts]:
    """Return what was seen of each clip's images."""
    jobs = list(batches(plan_looks(clips, options.deep)))
    total = sum(len(look.decode) for job in jobs for look in job)
    facts = [ImageFacts() for _ in clips]
    done = 0

    def take(seen: tuple[int, list[tuple[int, ImageFacts]]]) -> None:
        nonlocal done
        images, parts = seen
        for clip, part in parts:
            facts[clip].add(part)
        done += images
        if progress:
            progress(done, total)

    LocalEngine(options.workers).run(_run_job, jobs, range(len(jobs)), take)
    return facts


def _run_job(jobs: list[tuple[Look, ...]], number: int, tell: Tell) -> None:
    """Carry out one batch of looks; runs in a worker process."""
    tell((sum(len(look.decode) for look in jobs[number]), look_at(jobs[number])))


def _stated_size(folder: Path) -> tuple[int, int] | None:
    """Return (width, height) from GOT-10k's ``meta_info.ini``; None where it says nothing."""
    try:
        text = (folder / "meta_info.ini").read_text("utf-8", errors="replace")
    except OSError:
        return None
    found = _RESOLUTION.search(text)
    return (int(found[1]), int(found[2])) if found else None
