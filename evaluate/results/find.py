"""Where a tracker's results of a test set are: layouts of folders, and the names that programs give to sequences.

Promise: a folder is read in one way only; what could be read in two, or holds several trackers, is refused by name. A
name is taken as it is where it is there, else without case and with ``_k``, ``.k`` and ``-k`` alike if one file has it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from lorat.evaluate.results import files
from lorat.evaluate.results.formats import READ, SUFFIXES
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.official import official_names
from lorat.shards.base.errors import UserError, some, unknown
from lorat.shards.base.storage import children

Layout = Literal["auto", "lorat", "pytracking", "otb", "got10k"]  # of --layout; auto tells it by what is there

PREFIXES = dict.fromkeys(("uav123", "uav123_10fps", "uav20l"), "uav_") | dict.fromkeys(("nfs30", "nfs240"), "nfs_")
PREFIXES |= {"tc128": "tpl_", "otb": "otb_"}
"""What pytracking's folders put before the sequence names of a data set, or may put there (OTB)."""

_OTB = "_tracking_result"
_NUMBER = re.compile(rf"_\d{{3}}(?=(?:{_OTB})?\Z)")

BoxFiles = dict[str, Path]  # sequence → its file of boxes


class Place(NamedTuple):
    """The results of one tracker on one test set."""

    layout: str
    home: Path  # the first run's folder; in GOT-10k's layout that of the sequences' folders
    runs: list[BoxFiles]  # a run may lack sequences

    def __str__(self) -> str:
        return told(self.layout, self.home, self.runs)

    def called(self, name: str) -> str:
        """Return the name under which the first run has a sequence."""
        file = self.runs[0][name]
        return file.parent.name if self.layout == "got10k" else file.stem

    def names(self) -> set[str]:
        """Return the names of all results, of any set, beside those of the first run."""
        file = next(iter(self.runs[0].values()))
        if self.layout == "got10k":
            return {entry.name for entry in files.folders_in(self.home)}
        return {entry.stem for entry in _files(file.parent, file.suffix)}


class Names:
    """What other programs may call the sequences of a test set."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        first = clips[0]
        self.clips, self.test_set, self.dataset = clips, f"{first.dataset}-{first.split}", first.dataset
        self.prefix = PREFIXES.get(first.dataset, "")
        self._known = {clip.name for clip in clips} | set(official_names(first.dataset, first.split) or ())
        self._objects = Counter(map(_without_object, self._known))
        self._owners = Counter(map(_plain, self._known))

    def exact(self, name: str) -> tuple[str, str]:
        """Return how a sequence's file is called, the prefixed name first, which no other set uses."""
        return self.prefix + name, name

    def match(self, there: Collection[str]) -> dict[str, str]:
        """Return sequence → the one name of those `there` that means it."""
        names = [clip.name for clip in self.clips]
        found = {name: known[0] for name in names if (known := [e for e in self.exact(name) if e in there])}
        loose, near = defaultdict[str, list[str]](list), dict[str, str]()
        for stem in set(there).difference(found.values()):
            loose[_plain(stem)].append(stem)
        # A prefixed file goes before another set's of the same name, and where there is one, all have it.
        prefixed = any(stem != name for name, stem in found.items())
        for name in (name for name in names if name not in found and self._owners[_plain(name)] == 1):
            folder = _without_object(name)  # ``Human4`` may stand for ``Human4_2``, the only object of that folder
            only = folder not in self._known and self._objects[folder] == 1
            aliases = [*self.exact(name)[: 1 if prefixed else 2], *(self.exact(folder) if only else ())]
            if one := next((one for each in aliases if len(one := loose.get(_plain(each), [])) == 1), []):
                near[name] = one[0]
        # A few names that are alike but for their case are those of another data set.
        both = found | near if 2 * len(found | near) >= min(len(names), len(there)) else found
        return {name: both[name] for name in names if name in both}

    def alike(self, place: "Place") -> Iterator[tuple[str, str]]:
        """Yield each of the first sequences that a place lacks and what is there under a name much like it."""
        run, others = place.runs[0], defaultdict[str, list[str]](list)
        for name in sorted(place.names().difference(map(place.called, run))):
            others[_plain(name)].append(name)
        for name in [clip.name for clip in self.clips if clip.name not in run][:9]:
            close = {key for alias in self.exact(name) for key in get_close_matches(_plain(alias), others, 2, 0.8)}
            if place.layout != "lorat" and close:
                yield name, some([each for key in sorted(close) for each in others[key]])


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower())


def _without_object(name: str) -> str:
    return re.sub(r"(?<=.)_\d+\Z", "", name)


def told(layout: str, home: Path, runs: Sequence[object]) -> str:
    """Say where results are, and in how many runs."""
    count = 0 if layout == "got10k" else len(runs) - 1
    more = f" and {count} more run{'s' if count > 1 else ''}" if count else ""
    return f"{layout} in {home}{more}"


def tracker_of(home: Path) -> str:
    """Return what a folder of boxes calls its tracker."""
    return _NUMBER.sub("", home.name).removesuffix(_OTB) or home.name


def is_there(place: Path) -> bool:
    """Return whether `find` may find something: a file or folder, or what names several runs or one of several trackers
    in the folder above.
    """
    beside = place.exists() or any(_all_runs(home) == f"{place.name}_*" for home in files.folders_in(place.parent))
    return beside or any(file.stem.endswith(f"_{place.name}") for file in _files(place.parent, ".mat"))


def find(folder: Path, names: Names, layout: str) -> Place:
    """Return where the results are: what lies in the folder itself goes before what lies deeper."""
    if layout not in get_args(Layout):
        raise unknown("layout", layout, get_args(Layout))
    found = _ours(folder, names, layout) if layout in ("auto", "lorat") else []
    if not found and layout != "lorat":
        inner = [f for f in files.folders_in(folder) if layout != "pytracking" or not f.name.endswith(_OTB)]
        if layout != "got10k":
            found = _flat([folder], names, layout) or _flat(inner, names, layout)
        if layout in ("auto", "got10k"):
            found += _nested([folder], names) or _nested(inner, names)
        if not found and layout in ("auto", "pytracking"):
            beside = [f for f in files.folders_in(folder.parent) if _all_runs(f) == f"{folder.name}_*"]
            found = _flat(beside, names, "pytracking")
        if not found and layout in ("auto", "otb") and not folder.exists():
            found = [place for place in _flat([folder.parent], names, "otb") if place.home == folder]
    if len(found) == 1:
        return found[0]
    if found:
        remedy = "give one of these folders, or, to score and export-results, the layout (--layout, --read-as)"
        raise UserError(f"{folder}: holds several results of {names.test_set}: {some(found, 4)}; {remedy}")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give that of one tracker's results")
    there = some([entry.name for entry in children(folder) if not entry.name.startswith(".")], 2) or "nothing"
    how = "" if layout == "auto" else f" in the layout {layout}"
    wanted = " and ".join(clip.name for clip in names.clips[:2])
    wanted = f"wanted are sequences such as {wanted}; give the folder of one tracker's results; {READ}"
    raise UserError(f"{folder}: no result of {names.test_set}{how}: it holds {there}, {wanted}")


def _ours(folder: Path, names: Names, layout: str) -> list[Place]:
    """Look where `lorat-eval` writes: an evaluation's folder, its results, or a test set's."""

    def boxes(home: Path) -> BoxFiles:
        there = {entry.name: entry for entry in _files(home)}
        return {clip.name: there[f"{clip.name}.txt"] for clip in names.clips if f"{clip.name}.txt" in there}

    for home in (folder / "results" / names.test_set, folder / names.test_set, folder):
        if boxes(home):
            # Others' box files may be called like ours, but not their folder or the files beside.
            beside = any(entry.name.endswith(files.SIDE_FILES) for entry in _files(home))
            if layout == "auto" and not beside and home.resolve().name != names.test_set:
                return []
            return [Place("lorat", home, [boxes(run) for run in files.run_folders(home)])]
    return []


def _flat(folders: Sequence[Path], names: Names, layout: str) -> list[Place]:
    """Look for box files in folders; numbered ones are runs of one tracker."""
    trackers: dict[str, dict[Path, BoxFiles]] = defaultdict(dict)
    for folder in folders:
        # OSTrack and its descendants put TrackingNet and GOT-10k into a folder of their own.
        for home, run in (_boxes(folder, names) or _boxes(folder / names.dataset, names)).items():
            home = folder if home.name == names.dataset and home != folder else home
            trackers[_all_runs(home)][home] = run
    places = []
    for runs in trackers.values():
        home, first = next(iter(runs.items()))
        layout_here = _pytracking_or_otb(home, first) if layout == "auto" else layout
        places.append(Place(layout_here, home, [*runs.values()]))
    return places


def _nested(folders: Sequence[Path], names: Names) -> list[Place]:
    """Look for sequences that have a folder of their own in folders."""
    places = []
    for folder in folders:
        runs: dict[str, BoxFiles] = defaultdict(dict)
        for name, called in names.match({entry.name for entry in files.folders_in(folder)}).items():
            for file in _files(folder / called):
                match = re.fullmatch(r"(.+)_(\d+)", file.stem)
                if match and _plain(match[1]) in (_plain(called), _plain(name)):
                    runs[match[2]][name] = file
        if runs:
            places.append(Place("got10k", folder, [runs[number] for number in sorted(runs, key=int)]))
    return places


def _pytracking_or_otb(folder: Path, run: BoxFiles) -> str:
    """Tell pytracking's folders of box files from OTB's; the boxes in both mean the same."""
    name, first = next(iter(run.items()))
    if folder.name.endswith(_OTB) or first.suffix.lower() != ".txt":
        return "otb"
    timed = first.with_name(f"{first.stem}_time.txt").is_file()
    if timed or _all_runs(folder) != folder.name or first.stem != name or first.parent != folder:
        return "pytracking"
    with first.open("rb") as file:
        return "pytracking" if b"\t" in file.readline(200) else "otb"


def _all_runs(folder: Path) -> str:
    """Return what numbered folders have in common: ``dimp50_*`` for ``dimp50_003``."""
    return _NUMBER.sub("_*", folder.name)


def _boxes(folder: Path, names: Names) -> dict[Path, BoxFiles]:
    """Return home → the sequences that have a file in a folder, of the first kind of file that there is: the folder
    itself, or a tracker where files are called ``<sequence>_<tracker>``.
    """
    for suffix in SUFFIXES:
        there = {entry.stem: entry for entry in _files(folder, suffix)}
        if found := names.match(there):
            return {folder: {name: there[stem] for name, stem in found.items()}}
        if suffix == ".mat" and (trackers := _by_tracker(there, names)):
            return {folder / tracker: run for tracker, run in trackers.items()}
    return {}


def _by_tracker(there: Mapping[str, Path], names: Names) -> dict[str, BoxFiles]:
    """Return tracker → its files, of all called ``<sequence>_<tracker>``; the more files, the likelier the tracker."""
    tails: dict[str, dict[str, Path]] = defaultdict(dict)
    for stem, file in there.items():
        for cut in re.finditer("_", stem):
            tails[stem[cut.end() :]][stem[: cut.start()]] = file
    runs = {tail: {name: heads[stem] for name, stem in names.match(heads).items()} for tail, heads in tails.items()}
    taken, trackers = set[Path](), dict[str, BoxFiles]()
    for tail, run in sorted(runs.items(), key=lambda item: -len(item[1])):
        if run and taken.isdisjoint(run.values()):
            trackers[tail] = run
            taken.update(run.values())
    return trackers


def _files(folder: Path, suffix: str = ".txt") -> list[Path]:
    """Return the files of a kind in a folder, sorted; capitals do not matter."""
    entries = [entry for entry in children(folder) if isinstance(entry, Path)]
    return [entry for entry in entries if entry.suffix.lower() == suffix.lower() and not entry.name.startswith(".")]
