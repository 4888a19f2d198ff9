"""Which file of a submission zip is which sequence's, told from names alone, as the servers do.

GOT-10k: ``<sequence>/<sequence>_001.txt`` (to ``_003``) and ``<sequence>/<sequence>_time.txt``, at
the root or all inside one folder. TrackingNet: the one ``.txt`` whose path contains
``<sequence>.txt``: at the root, or in folders as in ``<tracker>/<sequence>/<sequence>.txt``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorat.evaluate.submit.findings import Finding, Server

__all__ = ["LAYOUTS", "MOST_RUNS", "Files", "Layout", "guess_server"]

MOST_RUNS = 3
"""What GOT-10k's protocol asks for at most."""

_GOT10K = re.compile(r"(?P<sequence>.+)_(?P<part>\d{3}|time)\.txt")
_GOT10K_OFFICIAL = re.compile(r"GOT-10k_Test_\d{6}")
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one sequence."""

    runs: Mapping[int, str]
    """Number of the run, from 1 → name in the zip."""
    time: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """What a zip holds, told from its names."""

    sequences: Mapping[str, Files]
    """In order; unexpected ones too."""
    findings: tuple[Finding, ...]
    form: str
    """How the tree is laid out, in words."""


def guess_server(names: Iterable[str], trackingnet: Collection[str]) -> Server | None:
    """Return the server whose sequences or, failing that, whose layout the names show, or None.

    Args:
        names: of the zip's files.
        trackingnet: the official sequences of TrackingNet's test set.
    """
    texts = [name.split("/") for name in names if name.endswith(".txt")]
    got10k = sum(bool(_GOT10K_OFFICIAL.match(parts[-1])) for parts in texts)
    other = sum(parts[-1].removesuffix(".txt") in set(trackingnet) for parts in texts)
    if got10k or other:
        return "got10k" if got10k > other else "trackingnet"
    matches = [_GOT10K.fullmatch(parts[-1]) for parts in texts]
    in_runs = [m is not None and m["sequence"] in p for m, p in zip(matches, texts, strict=True)]
    if any(in_runs):
        return "got10k"
    stems = [parts[-1].removesuffix(".txt") for parts in texts]
    flat = [len(p) == 1 or p[-2] == stem for p, stem in zip(texts, stems, strict=True)]
    return "trackingnet" if flat and all(flat) else None


def _got10k(names: Sequence[str], expected: Collection[str]) -> Layout:
    findings = list(_repeated(names))
    files: dict[str, dict[str, str]] = {}  # sequence → 001, …, time → name
    tops = Counter(top for name in names if (top := _top(name)) is not None)
    top = max(tops, key=lambda t: (tops[t], -len(t))) if tops else ""
    for name in dict.fromkeys(names):
        match = _GOT10K.fullmatch(name.rpartition("/")[2])
        if _is_litter(name):
            findings.append(Finding("litter", name))
        elif match is None or match["part"] == "000":
            findings.append(Finding("unexpected", name))
        else:
            sequence, part = match["sequence"], match["part"]
            findings.extend(_misplaced(name, sequence, top))
            known = files.setdefault(sequence, {})
            if part in known:
                findings.append(Finding("matched twice", sequence, f"{name} and {known[part]}"))
            known.setdefault(part, name)
    sequences = {}
    for sequence, known in sorted(files.items()):
        time = known.pop("time", None)
        if known:
            sequences[sequence] = Files({int(part): name for part, name in known.items()}, time)
    findings.extend(_names(sorted(files), sequences, expected))
    findings.extend(_uneven(sequences))
    return Layout(sequences, tuple(findings), f"inside the folder {top}" if top else "at the root")


def _top(name: str) -> str | None:
    """Return what is above the sequence's folder, or None for a file that is in none."""
    parts = name.split("/")
    match = _GOT10K.fullmatch(parts[-1])
    return "/".join(parts[:-2]) if match and parts[-2:-1] == [match["sequence"]] else None


def _misplaced(name: str, sequence: str, top: str) -> Iterator[Finding]:
    found = _top(name)
    if found is None:
        yield Finding("layout", name, f"not in a folder {sequence}/")
    elif found != top:
        yield Finding("layout", name, f"beside the tree {f'in {top}/' if top else 'at the root'}")
    elif "/" in top:
        yield Finding("layout", name, f"{top.count('/') + 1} folders above the sequence")


def _uneven(sequences: Mapping[str, Files]) -> Iterator[Finding]:
    """Yield the sequences whose runs are not 1 … R, R the number that most of them have."""
    if not sequences:
        return
    counts = Counter(tuple(sorted(files.runs)) for files in sequences.values())
    usual = max(counts, key=lambda runs: (counts[runs], runs == tuple(range(1, len(runs) + 1))))
    for name, files in sequences.items():
        runs = tuple(sorted(files.runs))
        listed = ", ".join(f"{run:03d}" for run in runs)
        if len(runs) > MOST_RUNS or runs != tuple(range(1, len(runs) + 1)):
            yield Finding("runs", name, f"has {listed}")
        elif runs != usual:
            yield Finding("runs", name, f"has {listed}; most have {len(usual)}")


def _trackingnet(names: Sequence[str], expected: Collection[str]) -> Layout:
    findings = [f for f in _repeated(names) if f.where.rpartition("/")[2][:-4] not in expected]
    seen = [name for name in names if name.endswith(".txt") and "__MACOSX" not in name]
    sequences: dict[str, Files] = {}
    matched: set[str] = set()
    for sequence in sorted(expected):
        files = [name for name in seen if f"{sequence}.txt" in name]
        matched.update(files)
        if len(files) > 1:
            findings.append(Finding("matched twice", sequence, " and ".join(files[:3])))
        if files:
            sequences[sequence] = Files({1: files[0]})
    for name in dict.fromkeys(names):
        stem = name.rpartition("/")[2].removesuffix(".txt")
        if name in matched:
            if "/" in name:
                findings.append(Finding("nested", name))
            if stem not in expected:
                findings.append(Finding("name", name))
        elif _is_litter(name):
            findings.append(Finding("litter", name))
        elif name.endswith("_time.txt"):
            findings.append(Finding("time file", name))
        elif name.endswith(".txt"):
            sequences.setdefault(stem, Files({1: name}))
        else:
            findings.append(Finding("unexpected", name))
    findings.extend(_names(sequences, sequences, expected))
    nested = any("/" in files.runs[1] for files in sequences.values())
    return Layout(sequences, tuple(findings), "in folders" if nested else "at the root")


def _names(
    found: Collection[str], whole: Collection[str], expected: Collection[str]
) -> Iterator[Finding]:
    """Yield the sequences that are too many or missing."""
    lowered = {name.lower(): name for name in expected}
    for name in found:
        if name not in expected:
            right = lowered.get(name.lower())
            yield Finding("unexpected", name, f"written {right}" if right else "")
    yield from (Finding("missing", name) for name in sorted(set(expected).difference(whole)))


def _repeated(names: Sequence[str]) -> Iterator[Finding]:
    for name, count in Counter(names).items():
        if count > 1:
            yield Finding("matched twice", name, f"{count} entries of this name")


def _is_litter(name: str) -> bool:
    file = name.rpartition("/")[2]
    return "__MACOSX" in name or file.startswith("._") or file in _LITTER


LAYOUTS: dict[Server, Callable[[Sequence[str], Collection[str]], Layout]] = {
    "got10k": _got10k,
    "trackingnet": _trackingnet,
}
"""Server → the layout of (names of the zip's files, sequences expected)."""
