"""Audits raw trees: every sequence by itself, so that one that is broken hides no other.

Promise: nothing is changed in the tree; an annotation file that does not parse, a missing or damaged image is a finding
of its sequence and never ends the audit; the findings are the same whatever the number of workers. Damage is what a
build or a tracker would stumble over: a frame that is missing or does not decode, annotations that do not belong to the
images, a first box that no tracker can start from. Everything else is a note, because published trees have it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.prep.audit.images import ImageFacts, see_images
from lorat.prep.audit.report import BoxCounts, Counts, Finding, Severity, SplitAudit
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.folders import but_folders
from lorat.prep.trees.base.notation import Notation
from lorat.prep.trees.base.official import expected_frames, expected_sequences, official_names
from lorat.prep.trees.base.reading import Reading, TreeFault
from lorat.prep.trees.registry import look
from lorat.prep.trees.sources import TreeSplit
from lorat.shards.base.errors import UserError, counted, some

_RESOLUTION = re.compile(r"^resolution:\s*\((\d+),\s*(\d+)\)\s*$", re.MULTILINE)


def audit(
    source: TreeSplit, *, deep: bool = False, workers: int = 1, progress: Callable[[int, int, str], None] | None = None
) -> SplitAudit:
    """Audit one split of a tree: read every sequence that can be read, look at its images. `deep` decodes every image,
    not just the first and the last of each sequence. `progress` is called with (done, of how many, what): sequences
    that are read, then images. What is wrong with the tree is a finding; a `UserError` is raised when one of the
    `workers` was killed.
    """

    def told(what: str) -> Callable[[int, int], None] | None:
        return progress and (lambda done, total: progress(done, total, f"{source.name}: {what}"))

    name, split, eval_split = source.dataset.name, source.split, source.dataset.eval_split
    scored = eval_split is not None and split in (eval_split, "val", "test")
    clips, trouble, notation, faults = list[Clip](), "", Notation(), list[TreeFault]()
    try:
        with (how := Reading(faults=faults, progress=told("annotations"))):
            clips = look(source.dataset, split, source.root)
    except UserError as error:
        trouble = error.message
    facts = see_images(clips, deep, workers, told("images"))
    published, boxes, found = expected_frames(name, split) or {}, Counter[str](), dict[str, list[Finding]]()
    for fault in faults:
        finding = _finding("damage" if fault.damage else "note", "annotations", fault.message)
        found.setdefault(fault.sequence, []).append(finding)
    for clip, seen in zip(clips, facts, strict=True):
        boxes.update(count_boxes(clip, seen.size))
        notation.add(clip, seen.size)
        mine = found.setdefault(clip.name, [])
        stated, frames = _stated_size(clip.frames.folder) if name == "got10k" else None, published.get(clip.name)
        mine += check_sequence(clip, seen, scored=scored, stated=stated, published=frames, faulty=bool(mine))
    damaged = {fault.sequence for fault in faults if fault.damage}
    counts = Counts(
        sequences=len(damaged | {clip.name for clip in clips}),
        expected_sequences=expected_sequences(name, split),
        frames=sum(len(clip.frames) for clip in clips),
        expected_frames=sum(published.values()) or None,
        decoded=sum(len(frames) for seen in facts for frames in seen.sizes.values()),
        boxes=BoxCounts(**boxes),
    )
    of_split = [_damage("tree", trouble)] if trouble else []
    of_split += [_damage("odd boxes", f"{source.root}: {what}") for what in notation.oddities()]
    of_split += [_note("not there", str(lack)) for lack in how.lacks]
    if not trouble:
        of_split += _differing(source, counts, sorted({*(clip.name for clip in clips), *damaged}))
    sequences = {sequence: findings for sequence, findings in sorted(found.items()) if findings}
    return SplitAudit(root=str(source.root), deep=deep, counts=counts, split=of_split, sequences=sequences)


def _differing(source: TreeSplit, counts: Counts, names: Sequence[str]) -> Iterator[Finding]:
    """Yield how the sequences of a split differ from those that were published."""

    def plain(name: str) -> str:  # lists and folders spell some of TNL2K's and VastTrack's differently
        return re.sub(r"[ &_]", "", name)

    name, split, official = source.dataset.name, source.split, counts.expected_sequences
    published = {plain(each): each for each in official_names(name, split) or ()}
    if official not in (None, counts.sequences):
        what = f"{source.root}: {counts.sequences:,} of {official:,} published sequences"
        if counts.sequences < official and (lacking := sorted(published.keys() - set(map(plain, names)))):
            what += f"; not there: {some([published[each] for each in lacking])}"
        yield _note("sequence count", what)
    if others := [each for each in names if published and plain(each) not in published]:
        what = f"{counted(len(others), 'sequence')} not among the published ones: {some(others)}"
        yield _note("not published", f"{source.root}: {what}")


def _stated_size(folder: Path) -> tuple[int, int] | None:
    """Return (width, height) from GOT-10k's ``meta_info.ini``; None where it says nothing."""
    try:
        found = _RESOLUTION.search((folder / "meta_info.ini").read_text("utf-8", errors="replace"))
    except OSError:
        return None
    return (int(found[1]), int(found[2])) if found else None


def count_boxes(clip: Clip, size: tuple[int, int] | None) -> dict[str, int]:
    """Count a clip's annotated boxes, as `BoxCounts`; `size` is (width, height), None: unknown, so none is outside."""
    boxes, visible, outside = _annotated(clip, size)
    with np.errstate(invalid="ignore"):  # inf - inf
        sized = np.isfinite(boxes).all(-1) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
    counts = {"absent": ~visible, "degenerate": ~sized, "outside": outside}
    return {"rows": visible.size} | {name: int(rows.sum()) for name, rows in counts.items()}


def check_sequence(
    clip: Clip,
    facts: ImageFacts,
    *,
    scored: bool,
    stated: tuple[int, int] | None = None,
    published: int | None = None,
    faulty: bool = False,
) -> Iterator[Finding]:
    """Yield what is wrong with a sequence, in a fixed order. `scored` says whether trackers are started on the first
    frame; `stated` is (width, height) in the meta data, `published` how many frames there are where that is known.
    Fewer than that are damage where reading the annotations was `faulty`, or images lie on disk that belong to none:
    they were cut. Otherwise another edition is as likely.
    """
    folder, count, size = clip.frames.folder, len(clip.frames), facts.size
    if count:
        yield from _image_findings(clip, facts)
        yield from _box_findings(clip, size, scored)
    else:
        yield _damage("no frames", f"{folder}: no image belongs to an annotated frame of {clip.name}")
    if stated is not None and size is not None and stated != size:
        yield _note("stated size", f"{folder}: images are {_by(size)} pixels, the meta data say {_by(stated)}")
    if published is not None and count != published:
        what = f"{folder}: {clip.name}: {counted(count, 'annotated frame')}, published with {published:,}"
        if count < published and (faulty or facts.extra > 0):
            yield _damage("frame count", f"{what}, though images are there; restore the annotation files")
        else:
            yield _note("frame count", what)


def _image_findings(clip: Clip, facts: ImageFacts) -> Iterator[Finding]:
    frames, size, missing = clip.frames, facts.size, sorted(facts.missing)
    if missing and 1 < len(missing) == len(frames):
        what = f"none of the {len(frames):,} images is there{but_folders(frames.folder)}; restore them"
        yield _damage("missing image", f"{frames.folder}: {what}")
    elif missing:
        yield _damage("missing image", f"{frames[missing[0]]}: missing{_others(missing)}; restore the image", missing)
    if unreadable := sorted(facts.unreadable):
        yield _damage("damaged image", f"{facts.unreadable[unreadable[0]]}{_others(unreadable)}", unreadable)
    if size is not None and clip.size is not None and clip.size != size:
        what = f"{frames[0]}: is {_by(size)} pixels, the annotations say {_by(clip.size)}; restore the image"
        yield _damage("annotated size", what)
    others = sorted(n for other, numbers in facts.sizes.items() if other != size for n in numbers)
    if size is not None and others:
        what = f"{frames[others[0]]}: is not {_by(size)} pixels as the first image is{_others(others)}"
        yield _note("frame size", what, others)
    for kind, said in sorted(facts.odd.items()):
        first, *_ = odd = sorted(said)
        yield _note(kind, f"{frames[first]}: {said[first]}{_others(odd)}", odd)
    if facts.extra > 0:
        what = f"{counted(facts.extra, 'image')} more than annotated frames"
        yield _note("extra images", f"{frames.folder}: {what}")


def _box_findings(clip: Clip, size: tuple[int, int] | None, scored: bool) -> Iterator[Finding]:
    _, visible, outside = _annotated(clip, size)
    usable = np.logical_or.reduce(visible & ~outside, axis=0)
    where = f"{clip.frames.folder}: {clip.name}"
    start = _damage if scored else _note
    if not usable.any():
        yield start("no object", f"{where}: no frame has a usable box")
    elif not usable[0]:
        meaning = ", so no tracker can start there" if scored else f"; training starts at frame {np.argmax(usable)}"
        yield start("first frame", f"{where}: the first frame has no usable box{meaning}", [0])
    frames = np.flatnonzero(outside.any(axis=0)).tolist()
    if frames and size is not None:
        what = f"{where}: visible boxes outside the image ({_by(size)}) in {counted(len(frames), 'frame')}"
        yield _note("box outside", what, frames)


def _annotated(
    clip: Clip, size: tuple[int, int] | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the annotated rows of T tracks: (T, R, 4) boxes, (T, R) visible, (T, R) visible but wholly outside."""
    rows = min(clip.annotated, len(clip.frames))
    boxes = np.stack([track.boxes[:rows] for track in clip.tracks])
    visible = np.stack([track.visible[:rows] for track in clip.tracks])
    if size is None:
        return boxes, visible, np.zeros_like(visible)
    outside = (boxes[..., :2] >= size).any(-1) | (boxes[..., 2:] <= 0).any(-1)
    return boxes, visible, visible & outside


def _finding(severity: Severity, kind: str, message: str, frames: Sequence[int] = ()) -> Finding:
    return Finding(kind=kind, severity=severity, message=message, frames=list(frames))


_damage, _note = partial(_finding, "damage"), partial(_finding, "note")


def _others(frames: Sequence[int]) -> str:
    return f" (and {counted(len(frames) - 1, 'more frame')})" if len(frames) > 1 else ""


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
