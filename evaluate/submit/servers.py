"""The servers that score GOT-10k's and TrackingNet's test sets, and what they mind in a zip.

Neither reports on the format: docs/submitting.md tells what each does without a word. Which file is
which sequence's is told from names alone, as the servers do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lorat.prep.trees.base.official import official_names

ServerName = Literal["got10k", "trackingnet"]
"""The data set whose test split the server scores."""

ERRORS = {
    "unreadable": "files that cannot be read",
    "path": "paths that are not safe or not plain",
    "layout": "files outside the server's folders",
    "missing": "missing sequences",
    "matched twice": "sequences that more than one file matches",
    "unexpected": "files or sequences that do not belong there",
    "time file": "time files, which this server does not take",
    "litter": "files that an operating system left",
    "runs": "sequences without the runs of the others",
    "empty": "empty files",
    "delimiter": "files that are not separated by commas",
    "header": "files that begin with a header",
    "columns": "files without the right number of columns",
    "not numbers": "files with lines that are not numbers",
    "number form": "files with numbers that are not plain decimals",
    "byte order mark": "files that begin with a byte order mark",
    "line ends": "files with carriage returns",
    "rows": "files without a row for each frame",
    "not finite": "files with values that are not finite",
    "no size": "files with boxes without width or height",
    "far away": "files with coordinates of 100000 pixels and more",
    "one pixel off": "files that begin one pixel off the given box in x and y",
    "time format": "time files that are not numbers with commas",
}
WARNINGS = {
    "times missing": "sequences without a time file",
    "times": "time files that do not fit the boxes",
    "first box": "files that do not begin with the given box",
    "outside": "files with boxes outside the image",
    "identical": "sequences whose runs are all the same",
    "blank lines": "files with blank lines",
    "name": "files with more in the name than the sequence",
    "nested": "files in folders",
}
KINDS = ERRORS | WARNINGS
"""Every kind of finding, the gravest first."""


@dataclass(frozen=True, slots=True)
class ZipFinding:
    """One thing that is wrong or odd in a zip; as text it is safe to print."""

    kind: str
    """A key of `KINDS`."""
    where: str
    """A sequence or a file of the zip, as it is written there."""
    what: str = ""
    """Details, such as the line."""

    def __str__(self) -> str:
        where = printable(self.where, 120)
        return f"{where} ({printable(self.what, 240)})" if self.what else where


@dataclass(frozen=True, slots=True)
class ZipTree:
    """What a zip holds, told from its names."""

    sequences: Mapping[str, Mapping[str, str]]
    """In order, unexpected ones too: part (the run as 001, …, or time) → name in the zip."""
    findings: tuple[ZipFinding, ...]
    form: str
    """How the tree is laid out, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """What is particular to one server."""

    name: ServerName
    title: str
    zip_name: str
    boxes: str
    """Name of an entry, to be formatted with the sequence and the run from 1."""
    times: str | None
    decimals: int
    most_runs: int
    tree: Callable[[Sequence[str], Collection[str]], ZipTree]
    """Takes the names of the zip's files and the sequences expected."""

    @property
    def official(self) -> tuple[str, ...]:
        """The sequences that it scores."""
        return official_names(self.name, "test") or ()


def printable(text: str, longest: int) -> str:
    """Return text that a terminal can show: no control characters, not too long."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:longest])
    return shown if len(text) <= longest else f"{shown}…"


_GOT10K = re.compile(
    r"(?s)(?:(?:(?P<top>.*)/)?(?P<folder>[^/]*)/)?(?P<sequence>[^/]+)_(?P<part>\d{3}|time)\.txt"
)
_PART = re.compile(r"_(?:\d{3}|time)$")
_LITTER = re.compile(r"(?s)(?:.*/)?(?:\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini)|.*__MACOSX.*")


def guess_server(names: Sequence[str]) -> ServerName | None:
    """Return the server whose sequences or, failing that, whose layout a zip's names show."""
    paths = [name.removesuffix(".txt").split("/") for name in names if name.endswith(".txt")]
    official = set(SERVERS["trackingnet"].official)
    got10k = sum(bool(re.match(r"GOT-10k_Test_\d{6}", path[-1])) for path in paths)
    other = sum(path[-1] in official for path in paths)
    if got10k or other:
        return "got10k" if got10k > other else "trackingnet"
    if any(_PART.sub("", path[-1]) in path[:-1] for path in paths if _PART.search(path[-1])):
        return "got10k"
    flat = [len(path) == 1 or path[-1] == path[-2] for path in paths]
    return "trackingnet" if flat and all(flat) else None


def _got10k_tree(names: Sequence[str], expected: Collection[str]) -> ZipTree:
    """Sort ``<sequence>/<sequence>_001.txt`` and ``_time.txt``, at the root or in one folder."""
    findings = list(_repeated(names))
    matches = {name: _GOT10K.fullmatch(name) for name in names}
    tops = Counter(m["top"] or "" for m in matches.values() if m and m["folder"] == m["sequence"])
    top = max(tops, key=lambda t: (tops[t], -len(t)), default="")
    files: dict[str, dict[str, str]] = {}
    for name, match in matches.items():
        if _LITTER.fullmatch(name):
            findings.append(ZipFinding("litter", name))
        elif match is None or match["part"] == "000":
            findings.append(ZipFinding("unexpected", name))
        else:
            if why := _misplaced(match, top):
                findings.append(ZipFinding("layout", name, why))
            known = files.setdefault(match["sequence"], {})
            first = known.setdefault(match["part"], name)
            if first != name:
                both = f"{name} and {first}"
                findings.append(ZipFinding("matched twice", match["sequence"], both))
    whole = {name: parts for name, parts in sorted(files.items()) if parts.keys() - {"time"}}
    findings += [*_names(sorted(files), whole, expected), *_uneven(whole)]
    return ZipTree(whole, tuple(findings), f"inside the folder {top}" if top else "at the root")


def _misplaced(match: re.Match[str], top: str) -> str | None:
    """Return what is wrong with a file's place; most sequences' folders are in `top`."""
    if match["folder"] != match["sequence"]:
        return f"not in a folder {match['sequence']}/"
    if (match["top"] or "") != top:
        return f"beside the tree {f'in {top}/' if top else 'at the root'}"
    return f"{top.count('/') + 1} folders above the sequence" if "/" in top else None


def _uneven(sequences: Mapping[str, Mapping[str, str]]) -> Iterator[ZipFinding]:
    """Yield the sequences whose runs are not 001 … R, R the number that most of them have."""
    runs = {name: tuple(sorted(parts.keys() - {"time"})) for name, parts in sequences.items()}
    most = SERVERS["got10k"].most_runs
    ways = [tuple(f"{run:03d}" for run in range(1, n + 1)) for n in range(1, most + 1)]
    counts = Counter(runs.values())
    usual = max(counts, key=lambda way: (counts[way], way in ways), default=())
    for name, way in runs.items():
        if way not in ways:
            yield ZipFinding("runs", name, f"has {', '.join(way)}")
        elif way != usual:
            yield ZipFinding("runs", name, f"has {', '.join(way)}; most have {len(usual)}")


def _trackingnet_tree(names: Sequence[str], expected: Collection[str]) -> ZipTree:
    """Sort files as the server does: the one ``.txt`` whose path contains ``<sequence>.txt``."""
    findings = [f for f in _repeated(names) if f.where.rpartition("/")[2][:-4] not in expected]
    seen = [name for name in names if name.endswith(".txt") and "__MACOSX" not in name]
    sequences: dict[str, dict[str, str]] = {}
    matched: set[str] = set()
    for sequence in sorted(expected):
        files = [name for name in seen if f"{sequence}.txt" in name]
        matched.update(files)
        if len(files) > 1:
            findings.append(ZipFinding("matched twice", sequence, " and ".join(files[:3])))
        if files:
            sequences[sequence] = {"001": files[0]}
    for name in dict.fromkeys(names):
        stem = name.rpartition("/")[2].removesuffix(".txt")
        if name in matched:
            kinds = {"nested": "/" in name, "name": stem not in expected}
            findings += [ZipFinding(kind, name) for kind, is_so in kinds.items() if is_so]
        elif _LITTER.fullmatch(name):
            findings.append(ZipFinding("litter", name))
        elif name.endswith("_time.txt"):
            findings.append(ZipFinding("time file", name))
        elif name.endswith(".txt"):
            sequences.setdefault(stem, {"001": name})
        else:
            findings.append(ZipFinding("unexpected", name))
    findings += _names(sequences, sequences, expected)
    nested = any("/" in parts["001"] for parts in sequences.values())
    return ZipTree(sequences, tuple(findings), "in folders" if nested else "at the root")


def _names(
    found: Collection[str], whole: Collection[str], expected: Collection[str]
) -> Iterator[ZipFinding]:
    """Yield the sequences that are too many or missing."""
    lowered = {name.lower(): f"written {name}" for name in expected}
    for name in found:
        if name not in expected:
            yield ZipFinding("unexpected", name, lowered.get(name.lower(), ""))
    yield from (ZipFinding("missing", name) for name in sorted(set(expected).difference(whole)))


def _repeated(names: Sequence[str]) -> Iterator[ZipFinding]:
    for name, count in Counter(names).items():
        if count > 1:
            yield ZipFinding("matched twice", name, f"{count} entries of this name")


SERVERS: dict[ServerName, Server] = {
    "got10k": Server(
        name="got10k",
        title="GOT-10k test",
        zip_name="GOT10k-test.zip",
        boxes="{0}/{0}_{1:03d}.txt",
        times="{0}/{0}_time.txt",
        decimals=4,
        most_runs=3,
        tree=_got10k_tree,
    ),
    "trackingnet": Server(
        name="trackingnet",
        title="TrackingNet test",
        zip_name="TrackingNet-test.zip",
        boxes="{0}.txt",
        times=None,
        decimals=2,
        most_runs=1,
        tree=_trackingnet_tree,
    ),
}
"""Every server, by the data set that it scores."""
