"""Which sequences an evaluation tracks: data sets by name, cut to what the user asks for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorat.prep.trees import DATASETS, Dataset, parse_name, read_clips
from lorat.prep.trees.clip import Clip
from lorat.prep.trees.roots import find_root, is_named, missing_roots
from lorat.shards.errors import UserError, nearest

__all__ = [
    "SERVERS",
    "TestSet",
    "choose_test_sets",
    "cut",
    "default_test_sets",
    "share_of",
]

_LOG = logging.getLogger("lorat")

SERVERS = ("got10k", "trackingnet")
"""Data sets whose test split is scored by a server, from a zip."""

# GOT-10k's test split has no ground truth, so the split that is scored without being asked is val.
_DEFAULT_SPLITS = {"got10k": "val"}
# TrackingNet has ground truth for training only, nfs240 is nfs30 with eight times the frames, and
# any folder can be called generic.
_NOT_BY_DEFAULT = ("trackingnet", "nfs240", "generic")


@dataclass(frozen=True, eq=False, slots=True)
class TestSet:
    """One split of one data set."""

    __test__ = False  # pytest collects classes by this name

    dataset: Dataset
    split: str
    clips: tuple[Clip, ...]
    """What is tracked."""
    whole: bool = True
    """Whether that is all that the tree holds."""
    submit: bool = False
    """Whether a zip is made of the results."""

    @property
    def name(self) -> str:
        """``<dataset>-<split>``: result folders and reports call it so."""
        return f"{self.dataset.name}-{self.split}"


def default_test_sets(raw: Path, roots: Mapping[str, Path]) -> list[str]:
    """Return the names of all test sets with ground truth whose tree is there.

    Raises:
        UserError: if there is none, or a tree named in `roots` is missing.
    """
    wanted = []
    for dataset in DATASETS.values():
        split = _DEFAULT_SPLITS.get(dataset.name, dataset.eval_split)
        named = is_named(dataset, roots)
        if split is None or (dataset.name in _NOT_BY_DEFAULT and not named):
            continue
        if named or _is_there(dataset, split, raw, roots):
            wanted.append(f"{dataset.name}-{split}")
    if not wanted:
        raise UserError(
            f"{raw}: no test set's tree there; give --raw RAW, or --root lasot=DIR for each tree"
        )
    return wanted


def _is_there(dataset: Dataset, split: str, raw: Path, roots: Mapping[str, Path]) -> bool:
    """Return whether RAW holds a sequence of a test set that nobody named."""
    if missing_roots([(dataset, split)], raw, roots):
        return False
    root = find_root(dataset, raw, roots, split)
    if dataset.name in _DEFAULT_SPLITS and not (root / split).is_dir():
        return False
    there = bool(dataset.read(dataset, split, root))
    if not there:
        _LOG.warning("%s: holds no sequence of %s-%s; left out", root, dataset.name, split)
    return there


def choose_test_sets(
    names: Sequence[str], submit: Sequence[str], raw: Path, roots: Mapping[str, Path]
) -> list[TestSet]:
    """Read the trees of the named test sets.

    Args:
        names: ``lasot``, ``got10k-val``, …; a bare name means the split that is scored.
        submit: of `SERVERS`; their test splits are added.
        raw: the folder of all trees.
        roots: data set name → folder, which wins over `raw`.

    Raises:
        UserError: if a name is unknown or a tree is missing or damaged.
    """
    chosen: dict[tuple[str, str], bool] = {}
    for name in names:
        dataset, split = parse_name(name)
        split = split or dataset.eval_split
        if split is None or dataset.eval_split is None:
            raise UserError(f"--datasets {name}: holds still images; name a set of sequences")
        chosen.setdefault((dataset.name, split), False)
    for name in submit:
        chosen[name, "test"] = True
    sets = []
    for (name, split), zipped in chosen.items():
        dataset = DATASETS[name]
        root = find_root(dataset, raw, roots, split)
        sets.append(TestSet(dataset, split, tuple(read_clips(dataset, split, root)), submit=zipped))
    return sets


def cut(sets: Sequence[TestSet], sequences: Sequence[str], limit: int | None) -> list[TestSet]:
    """Keep the named sequences, and of these the first `limit` of each test set.

    Raises:
        UserError: if a name is in no test set, or a set of which a zip is wanted would be cut.
    """
    if not sequences and limit is None:
        return list(sets)
    known = {clip.name for item in sets for clip in item.clips}
    for name in sequences:
        if name not in known:
            places = ", ".join(item.name for item in sets)
            hint = nearest(name, known)
            raise UserError(f"--sequences {name}: no such sequence in {places}{hint}")
    kept = []
    for item in sets:
        named = [clip for clip in item.clips if not sequences or clip.name in sequences]
        clips = tuple(named[:limit])
        whole = len(clips) == len(item.clips)
        if item.submit and not whole:
            raise UserError(
                f"--submit-zip {item.dataset.name}: takes the whole test set; drop --limit and "
                "--sequences"
            )
        if clips:
            kept.append(replace(item, clips=clips, whole=whole))
    return kept


def share_of(sets: Sequence[TestSet], part: int, parts: int) -> list[TestSet]:
    """Return one of `parts` shares of the sequences, which have about as many frames each.

    The longest sequences are dealt out first, each to the share with the fewest frames so far.
    """
    every = [(item.name, clip) for item in sets for clip in item.clips]
    loads = [0] * parts
    mine = set()
    for name, clip in sorted(every, key=lambda pair: -len(pair[1].frames)):
        least = loads.index(min(loads))
        loads[least] += len(clip.frames)
        if least == part:
            mine.add((name, clip.name))
    shares = []
    for item in sets:
        clips = tuple(clip for clip in item.clips if (item.name, clip.name) in mine)
        if clips:
            whole = item.whole and len(clips) == len(item.clips)
            shares.append(replace(item, clips=clips, whole=whole))
    return shares
