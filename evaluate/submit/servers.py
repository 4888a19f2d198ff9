"""The servers that score GOT-10k's and TrackingNet's test sets, and what they mind in a zip.

Neither reports on the format: docs/submitting.md tells what each does without a word. Which file is which sequence's is
told from names alone, as the servers do.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lorat.prep.trees.base.official import official_names

ServerName = Literal["got10k", "trackingnet"]
"""The data set whose test split the server scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """What a server takes."""

    name: ServerName
    title: str
    zip_name: str
    boxes: str
    """Name of an entry, to be formatted with the sequence and the run from 1."""
    times: str = ""
    """The same of a file of seconds a frame, where the server takes one."""
    decimals: int
    most_runs: int

    @property
    def official(self) -> tuple[str, ...]:
        """The sequences that it scores."""
        return official_names(self.name, "test") or ()


SERVERS: dict[ServerName, Server] = {
    "got10k": Server(
        name="got10k",
        title="GOT-10k test",
        zip_name="GOT10k-test.zip",
        boxes="{0}/{0}_{1:03d}.txt",
        times="{0}/{0}_time.txt",
        decimals=4,
        most_runs=3,
    ),
    "trackingnet": Server(
        name="trackingnet",
        title="TrackingNet test",
        zip_name="TrackingNet-test.zip",
        boxes="{0}.txt",
        decimals=2,
        most_runs=1,
    ),
}

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
"""Every kind of finding, as those of `ERRORS` the gravest first."""


@dataclass(frozen=True, slots=True)
class ZipFinding:
    """One thing that is wrong or odd in a zip; as text it is safe to print."""

    kind: str
    """A key of `ERRORS` or `WARNINGS`."""
    where: str
    """A sequence or a file of the zip, as it is written there."""
    what: str = ""
    """Details, such as the line."""

    def __str__(self) -> str:
        where = printable(self.where, 120)
        return f"{where} ({printable(self.what, 240)})" if self.what else where


def printable(text: str, longest: int) -> str:
    """Return text that a terminal can show: no control characters, not too long."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:longest])
    return shown if len(text) <= longest else f"{shown}…"


_GOT10K = re.compile(r"(?:.*/)?(?P<sequence>[^/]+)_(?P<part>\d{3}|time)\.txt", re.DOTALL)
_LITTER = re.compile(r"(?:.*/)?(?:\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini)|.*__MACOSX.*", re.DOTALL)


def guess_server(names: Sequence[str]) -> ServerName | None:
    """Return the server whose sequences or, failing that, whose layout a zip's names show."""
    paths = [name.removesuffix(".txt").split("/") for name in names if name.endswith(".txt")]
    official = set(SERVERS["trackingnet"].official)
    got10k = sum(path[-1].startswith("GOT-10k_Test_") for path in paths)
    other = sum(path[-1] in official for path in paths)
    if got10k or other:
        return "got10k" if got10k > other else "trackingnet"
    matches = map(_GOT10K.fullmatch, names)
    if any(match and match["sequence"] in match[0].split("/") for match in matches):
        return "got10k"
    flat = [len(path) == 1 or path[-1] == path[-2] for path in paths]
    return "trackingnet" if flat and all(flat) else None


def sort_names(
    server: Server, names: Sequence[str], expected: Collection[str]
) -> tuple[dict[str, dict[str, str]], list[ZipFinding], str]:
    """Return sequence → part (the run as 001, …, or time) → name in the zip; odd names; the form.

    The form says in words how the tree is laid out.
    """
    got10k = server.name == "got10k"
    found: dict[str, dict[str, list[str]]] = {}
    findings = []
    for name in names:
        owners = _got10k_owners(name) if got10k else _trackingnet_owners(name, expected)
        for sequence, part in owners:
            found.setdefault(sequence, {}).setdefault(part, []).append(name)
        if not owners:
            kind = "time file" if not got10k and name.endswith("_time.txt") else "unexpected"
            findings.append(ZipFinding("litter" if _LITTER.fullmatch(name) else kind, name))
    lowered = {name.lower(): f"written {name}" for name in expected}
    for sequence, parts in sorted(found.items()):
        if sequence not in expected:
            findings.append(ZipFinding("unexpected", sequence, lowered.get(sequence.lower(), "")))
        twice = [" and ".join(files[:3]) for files in parts.values() if len(files) > 1]
        findings += [ZipFinding("matched twice", sequence, files) for files in twice]
    sequences = {
        name: {part: files[0] for part, files in sorted(parts.items())}
        for name, parts in sorted(found.items())
        if parts.keys() - {"time"}
    }
    findings += [ZipFinding("missing", n) for n in sorted(set(expected).difference(sequences))]
    paths = {f: name for name, parts in found.items() for files in parts.values() for f in files}
    if got10k:
        form = _place_got10k(paths, findings)
        findings += _uneven(sequences, server.most_runs)
    else:
        form = _place_trackingnet(paths, expected, findings)
    return sequences, findings, form


def _got10k_owners(name: str) -> list[tuple[str, str]]:
    match = _GOT10K.fullmatch(name)
    if match is None or match["part"] == "000" or _LITTER.fullmatch(name):
        return []
    return [(match["sequence"], match["part"])]


def _trackingnet_owners(name: str, expected: Collection[str]) -> list[tuple[str, str]]:
    """Match as the server does: the ``.txt`` whose path contains ``<sequence>.txt``."""
    if not name.endswith(".txt") or "__MACOSX" in name:
        return []
    if matched := [(sequence, "001") for sequence in expected if f"{sequence}.txt" in name]:
        return matched
    stray = name.endswith("_time.txt") or _LITTER.fullmatch(name)
    return [] if stray else [(_stem(name), "001")]


def _place_got10k(paths: Mapping[str, str], findings: list[ZipFinding]) -> str:
    """See that the sequences' folders are at the root or all inside one; return where."""
    tails = {path: f"{sequence}/{path.rpartition('/')[2]}" for path, sequence in paths.items()}
    tops = Counter(p.removesuffix(tail) for p, tail in tails.items() if f"/{p}".endswith(f"/{tail}"))
    top = max(tops, key=lambda t: (tops[t], -len(t)), default="")
    allowed = top if top.count("/") < 2 else ""
    for path, tail in tails.items():
        if path != allowed + tail:
            findings.append(ZipFinding("layout", path, f"should be {allowed}{tail}"))
    return f"inside the folder {top.rstrip('/')}" if top else "at the root"


def _uneven(sequences: Mapping[str, Mapping[str, str]], most_runs: int) -> Iterator[ZipFinding]:
    """Yield the sequences whose runs are not 001 … R, R the number that most of them have."""
    runs = {name: [part for part in parts if part != "time"] for name, parts in sequences.items()}
    usual = Counter(map(len, runs.values())).most_common(1)
    wanted = [f"{run:03d}" for run in range(1, min(usual[0][0], most_runs) + 1)] if usual else []
    for name, has in runs.items():
        if has != wanted:
            yield ZipFinding("runs", name, f"has {', '.join(has)}, not {', '.join(wanted)}")


def _place_trackingnet(paths: Mapping[str, str], expected: Collection[str], findings: list[ZipFinding]) -> str:
    """Note the files in folders and those of longer names; return where they are."""
    for path, sequence in paths.items():
        if sequence in expected and "/" in path:
            findings.append(ZipFinding("nested", path))
        if sequence in expected and _stem(path) not in expected:
            findings.append(ZipFinding("name", path))
    return "in folders" if any("/" in path for path in paths) else "at the root"


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".txt")
