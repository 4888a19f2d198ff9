"""Which sequences an evaluation tracks: data sets by name, cut to what the user asks for."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from lorat.prep.trees.base.clip import Clip, Dataset
from lorat.prep.trees.base.notation import Notation
from lorat.prep.trees.base.reading import NothingThere, Reading, TreeFault, summed_up
from lorat.prep.trees.registry import DATASETS, look, parse_name, read_clips
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.errors import UserError, nearest

_LOG = logging.getLogger("lorat")

SCORED_SPLITS = {"got10k": "val"}  # what the bare name means where truth is needed: the test split's is not public
# One without ground truth, one that is nfs30 with eight times the frames, and one that any folder can be.
_NOT_BY_DEFAULT = ("trackingnet", "nfs240", "generic")


@dataclass(frozen=True, eq=False, slots=True)
class TestSet:
    """One split of one data set."""

    __test__ = False  # pytest collects classes by this name

    dataset: Dataset
    split: str
    clips: tuple[Clip, ...]  # what is tracked
    whole: bool = True  # whether that is all that the tree holds
    submit: bool = False  # whether a zip is made of the results
    unread: Mapping[str, str] = field(default_factory=dict)  # sequence → why it cannot be tracked, by its annotations
    runs: int = 1  # how often each sequence is tracked

    @property
    def name(self) -> str:
        """``<dataset>-<split>``: result folders and reports call it so."""
        return f"{self.dataset.name}-{self.split}"

    def lines(self) -> list[str]:
        """Say which sequences cannot be scored, and why."""
        return [f"{self.name}: cannot be scored: {line}" for line in summed_up(self.unread.items())]


def default_test_sets(trees: TreeOptions) -> list[str]:
    """Return the names of all test sets with ground truth whose tree is there, at least one."""
    wanted = []
    for dataset in DATASETS.values():
        split = SCORED_SPLITS.get(dataset.name, dataset.eval_split)
        if split is not None and (trees.names(dataset) or _is_there(dataset, split, trees)):
            wanted.append(f"{dataset.name}-{split}")
    if not wanted:
        raise UserError(f"{trees.folder}: no test set's tree there; give --raw RAW, or --root lasot=DIR for each tree")
    return wanted


def _is_there(dataset: Dataset, split: str, trees: TreeOptions) -> bool:
    """Return whether RAW holds a sequence of a test set that nobody named."""
    if dataset.name in _NOT_BY_DEFAULT or trees.missing([(dataset, split)]):
        return False
    root = trees.find(dataset, split)
    if dataset.name in SCORED_SPLITS and not (root / split).is_dir():
        return False
    try:
        with Reading(faults=[]):
            look(dataset, split, root)
    except NothingThere as error:
        _LOG.warning("left out: %s", error)
        return False
    return True


def choose_test_sets(
    names: Sequence[str], submit: Sequence[str], trees: TreeOptions, runs: Mapping[str, int] = MappingProxyType({})
) -> list[TestSet]:
    """Read the trees of test sets, ``got10k-val``, or a bare name for the evaluation split, and of those to `submit`.
    `runs` says how often the sequences of a data set are tracked; once where it is not named.
    """
    chosen: dict[tuple[str, str], bool] = {}
    for name in names:
        dataset, split = parse_name(name)
        split = split or dataset.eval_split
        if split is None or dataset.eval_split is None:
            raise UserError(f"--datasets {name}: holds still images; name a set of sequences")
        chosen[dataset.name, split] = False
    chosen |= {(name, "test"): True for name in submit}
    return [_read(DATASETS[name], split, trees, zipped, runs.get(name, 1)) for (name, split), zipped in chosen.items()]


def _read(dataset: Dataset, split: str, trees: TreeOptions, submit: bool, runs: int) -> TestSet:
    """Return what a tree holds that can be tracked, and why the rest cannot."""
    root, faults = trees.find(dataset, split), list[TreeFault]()
    with Reading(faults=faults):
        clips = read_clips(dataset, split, root)
    unread = {fault.sequence: fault.message for fault in faults if fault.damage}
    for message in summed_up((fault.sequence, fault.message) for fault in faults if not fault.damage):
        _LOG.warning("%s", message)
    whole, notation = tuple(clip for clip in clips if clip.name not in unread), Notation()
    for clip in whole:
        notation.add(clip, clip.size)
    for what in notation.oddities():
        _LOG.warning("%s-%s: %s", dataset.name, split, what)
    return TestSet(dataset, split, whole, submit=submit, unread=unread, runs=runs)


def cut(sets: Sequence[TestSet], sequences: Sequence[str], limit: int | None) -> list[TestSet]:
    """Keep the first `limit` named sequences of each set; a `UserError` if a set to zip is cut, or a name in none."""
    known = {name for item in sets for name in (*(clip.name for clip in item.clips), *item.unread)}
    for name in sequences:
        if name not in known:
            places, hint = ", ".join(item.name for item in sets), nearest(name, known)
            raise UserError(f"--sequences {name}: no such sequence in {places}{hint}")
    wanted, kept = set(sequences) or known, []
    for item in sets:
        clips = tuple([clip for clip in item.clips if clip.name in wanted][:limit])
        unread = {name: why for name, why in item.unread.items() if name in wanted}
        whole = len(clips) == len(item.clips) and len(unread) == len(item.unread)
        if item.submit and not whole:
            raise UserError(f"--submit-zip {item.dataset.name}: takes the whole test set; drop --limit and --sequences")
        if clips or unread:
            kept.append(replace(item, clips=clips, whole=whole, unread=unread))
    return kept
