"""The servers that score GOT-10k's and TrackingNet's test sets, and what they mind in a zip.

Neither reports on the format: docs/submitting.md tells what each does without a word. Which file is which sequence's is
told from names alone, as the servers do.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from lorat.prep.trees.base.official import official_names
from lorat.shards.base.errors import some

ServerName = Literal["got10k", "trackingnet"]  # the data set whose test split the server scores


class Server(NamedTuple):
    """What a server takes."""

    name: ServerName
    title: str
    zip_name: str
    decimals: int
    most_runs: int
    boxes: str  # name of an entry, to be formatted with the sequence and the run from 1
    times: str = ""  # the same of a file of seconds a frame, where the server takes one
    pandas: bool = False  # whether its toolkit reads with pandas, which takes byte order marks and lines of spaces

    @property
    def official(self) -> tuple[str, ...]:
        """The sequences that it scores."""
        return official_names(self.name, "test") or ()


SERVERS: dict[ServerName, Server] = {
    "got10k": Server(
        "got10k", "GOT-10k test", "GOT10k-test.zip", 4, 3, "{0}/{0}_{1:03d}.txt", times="{0}/{0}_time.txt"
    ),
    "trackingnet": Server("trackingnet", "TrackingNet test", "TrackingNet-test.zip", 2, 1, "{0}.txt", pandas=True),
}

ERRORS = {
    "unreadable": "files that cannot be read",
    "path": "paths that are not safe or not plain",
    "layout": "files outside the server's folders",
    "missing": "missing sequences",
    "matched twice": "sequences that more than one file matches",
    "unexpected": "files or sequences that do not belong there",
    "runs": "sequences without the runs of the others",
    "lines": "files with lines that are not four numbers with commas between",
    "rows": "files without a row for each frame",
    "boxes": "files with boxes that are not finite, have no size or reach 100000 pixels",
    "one pixel off": "files that begin one pixel off the given box in x and y",
    "time format": "time files that are not numbers with commas",
}
WARNINGS = {
    "times": "sequences whose times are missing or do not fit the boxes",
    "first box": "files that do not begin with the given box",
    "outside": "files with boxes outside the image",
    "form": "files with signs, exponents, spaces, carriage returns or byte order marks, which its toolkit reads",
    "identical": "sequences whose runs are all the same",
    "blank lines": "files with blank lines",
    "passed over": "files that the server passes over",
    "place": "files in folders, or with more in the name than the sequence",
}
"""Every kind of finding, as those of `ERRORS` the gravest first."""


class ZipFinding(NamedTuple):
    """One thing that is wrong or odd in a zip; as text it is safe to print."""

    kind: str  # a key of `ERRORS` or `WARNINGS`
    where: str  # a sequence or a file of the zip, as it is written there
    what: str = ""  # details, such as the line

    def __str__(self) -> str:
        where = printable(self.where, 120)
        return f"{where} ({printable(self.what, 240)})" if self.what else where


def printable(text: str, longest: int) -> str:
    """Return text that a terminal can show: no control characters, not too long."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:longest])
    return shown if len(text) <= longest else f"{shown}…"


# Not in a folder, or of a name, that macOS left.
_GOT10K = re.compile(r"(?!.*__MACOSX)(?:.*/)?(?P<sequence>(?!\._)[^/]+)_(?P<part>(?!000)\d{3}|time)\.txt", re.DOTALL)


def guess_server(names: Sequence[str]) -> ServerName | None:
    """Return the server whose sequences or, failing that, whose layout a zip's names show."""
    paths = [name.removesuffix(".txt").split("/") for name in names if name.endswith(".txt")]
    official = set(SERVERS["trackingnet"].official)
    got10k = sum(path[-1].startswith("GOT-10k_Test_") for path in paths)
    other = sum(path[-1] in official for path in paths)
    if got10k or other:
        return "got10k" if got10k > other else "trackingnet"
    if any(match and match["sequence"] in match[0].split("/") for match in map(_GOT10K.fullmatch, names)):
        return "got10k"
    flat = [len(path) == 1 or path[-1] == path[-2] for path in paths]
    return "trackingnet" if flat and all(flat) else None


def told(names: Sequence[str]) -> str:
    """Say what a zip holds that shows no server's layout, and what to do."""
    ends: dict[str, list[str]] = defaultdict(list)
    for name in names:
        ends[PurePosixPath(name).suffix].append(name)
    held = some([f"{len(of):,} {end or 'without ending'} (such as {of[0]})" for end, of in ends.items()])
    remedy = "both take names that end in .txt" if ends and ".txt" not in ends else "say with --server whose it is"
    remedy = "check the zip that is inside" if ".zip" in ends else remedy
    return f"holds {printable(held, 240) or 'no file'}, neither GOT-10k's nor TrackingNet's layout; {remedy}"


def sort_names(
    server: Server, names: Sequence[str], expected: Set[str]
) -> tuple[dict[str, dict[str, str]], list[ZipFinding], str]:
    """Return sequence → part (the run as 001, …, or time) → name in the zip; odd names; the tree's form in words."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    findings = []
    for name in names:
        owners = _owners(server, name, expected)
        for owner in owners:
            found[owner].append(name)
        findings += [] if owners else [ZipFinding("unexpected" if server.times else "passed over", name)]
    sequences: dict[str, dict[str, str]] = defaultdict(dict)
    for (name, part), files in sorted(found.items()):
        sequences[name][part] = files[0]
        findings += [ZipFinding("matched twice", name, " and ".join(files[:3]))] if len(files) > 1 else []
    written = {name.lower(): f"written {name}" for name in expected}
    findings += [ZipFinding("unexpected", n, written.get(n.lower(), "")) for n in sequences if n not in expected]
    sequences = {name: parts for name, parts in sequences.items() if parts.keys() != {"time"}}
    findings += [ZipFinding("missing", name) for name in sorted(expected - sequences.keys())]
    paths = {path: name for (name, _), files in found.items() for path in files}
    form, misplaced = _place(server, paths, expected)
    # The runs are to be 001 … R, R the number that most sequences have.
    runs = {name: [part for part in parts if part != "time"] for name, parts in sequences.items()}
    usual = Counter(map(len, runs.values())).most_common(1)
    wanted = [f"{run:03d}" for run in range(1, min(usual[0][0], server.most_runs) + 1)] if usual else []
    uneven = [ZipFinding("runs", n, f"has {some(has)}, not {some(wanted)}") for n, has in runs.items() if has != wanted]
    return sequences, [*findings, *misplaced, *uneven], form


def _owners(server: Server, name: str, expected: Set[str]) -> list[tuple[str, str]]:
    """Return the sequences and their part that a server takes a file for."""
    if server.times:  # GOT-10k's
        if match := _GOT10K.fullmatch(name):
            return [(match["sequence"], match["part"])]
        stem = name.rpartition("/")[2].removesuffix(".txt")  # as trackers write a file a sequence
        return [(stem, "001")] if stem in expected and name.endswith(".txt") and "__MACOSX" not in name else []
    if not name.endswith(".txt") or "__MACOSX" in name:
        return []
    # TrackingNet's takes the .txt whose path contains <sequence>.txt.
    if matched := [(sequence, "001") for sequence in expected if f"{sequence}.txt" in name]:
        return matched
    return [] if name.endswith("_time.txt") else [(name.rpartition("/")[2].removesuffix(".txt"), "001")]


def _place(server: Server, paths: Mapping[str, str], expected: Set[str]) -> tuple[str, list[ZipFinding]]:
    """Return how the files of sequences are laid out, and those that lie elsewhere or are called otherwise."""
    if not server.times:
        odd = [path for path, name in paths.items() if name in expected and path.removesuffix(".txt") not in expected]
        form = "in folders" if any("/" in path for path in paths) else "at the root"
        return form, [ZipFinding("place", path) for path in odd]
    # The sequences' folders are to be at the root or all inside one.
    tails = {
        path: f"{name}/{path.rpartition('/')[2].replace(f'{name}.', f'{name}_001.')}" for path, name in paths.items()
    }
    tops = Counter(path.removesuffix(tail) for path, tail in tails.items() if f"/{path}".endswith(f"/{tail}"))
    top = max(tops, key=lambda t: (tops[t], -len(t)), default="")
    good = {path: f"{top if top.count('/') < 2 else ''}{tail}" for path, tail in tails.items()}
    form = f"inside the folder {top.rstrip('/')}" if top else "at the root"
    wrong = [ZipFinding("layout", path, f"should be {right}") for path, right in good.items() if path != right]
    if len(wrong) == len(paths) > 1:  # one thing to say
        if flat := not tops and len(homes := {path.rpartition("/")[0] for path in paths}) == 1:
            form = f"flat inside the folder {home}" if (home := homes.pop()) else "flat at the root"
        first, right = next(iter(good.items()))
        what = f"{'flat; ' if flat else ''}the server wants {right}, and all {len(paths):,} files so"
        wrong = [ZipFinding("layout", first, what)]
    return form, wrong
