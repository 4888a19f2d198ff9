"""What can be wrong with a submission zip, and what the servers do about it without saying so.

Neither server reports on the format. TrackingNet's effects are those of its published metrics code.
GOT-10k's server is not public: its effects are those its users have met, and those of its toolkit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lorat.evaluate.submit.text import quoted

__all__ = ["KINDS", "Finding", "Kind", "Server", "by_kind", "finding_lines"]

Server = Literal["got10k", "trackingnet"]

_SHOWN = 3  # findings of a kind that are listed by name
_LONGEST = 120  # characters of a name


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding. The effects complete the sentence "the server would …"."""

    title: str
    got10k: str
    trackingnet: str
    error: bool = True

    def effect(self, server: Server) -> str:
        """Return what the server would do."""
        return self.got10k if server == "got10k" else self.trackingnet


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or odd."""

    kind: str
    """A key of `KINDS`."""
    where: str
    """A sequence or a file of the zip, as it is written there."""
    what: str = ""
    """Details, such as the line."""

    def text(self) -> str:
        """Return ``where (what)``, safe to print."""
        where = quoted(self.where, _LONGEST)
        return f"{where} ({quoted(self.what, 2 * _LONGEST)})" if self.what else where


_SILENT = "silently give no score, because"
_ZERO = "score such sequences with all-zero boxes and say nothing, because"
_STOP = "stop or score it with misses, because"
_MISS = "count the frames as misses, because"

KINDS: dict[str, Kind] = {
    "unreadable": Kind(
        "files that cannot be read",
        f"{_SILENT} it cannot unpack the zip",
        "stop, because it cannot unpack the zip",
    ),
    "path": Kind(
        "paths that are not safe or not plain",
        f"{_SILENT} it may refuse such a path or read it as another name",
        "perhaps not match the file, because programs read such a path differently",
    ),
    "layout": Kind(
        "files outside the server's folders",
        f"{_SILENT} it takes <sequence>/ at the root, or all of them inside one folder",
        "perhaps not match the file",
    ),
    "missing": Kind(
        "missing sequences",
        f"{_SILENT} the set is not complete",
        f"{_ZERO} no file matches its name",
    ),
    "matched twice": Kind(
        "sequences that more than one file matches",
        f"{_SILENT} it cannot know which file is meant",
        f"{_ZERO} it wants exactly one file whose path contains <sequence>.txt",
    ),
    "unexpected": Kind(
        "files or sequences that do not belong there",
        f"{_SILENT} the set is not the official one",
        "pass over them; a misnamed file leaves its sequence without boxes",
    ),
    "time file": Kind(
        "time files, which this server does not take",
        "read them",
        "pass over them; they do not belong into this zip",
    ),
    "litter": Kind(
        "files that an operating system left",
        f"{_SILENT} a folder that is no sequence can hide the ones that are",
        "pass over __MACOSX at the most; pack the zip without them",
    ),
    "runs": Kind(
        "sequences without the runs of the others",
        f"{_SILENT} it wants runs 001 to 003 at most, without a gap, the same in each sequence",
        "take one run only",
    ),
    "empty": Kind(
        "empty files",
        f"{_SILENT} a sequence without a row does not fit its ground truth",
        f"{_MISS} a row that lacks is a miss",
    ),
    "delimiter": Kind(
        "files that are not separated by commas",
        f"{_SILENT} it splits lines at commas only",
        "stop with an error that is not about commas, because it splits lines at commas only",
    ),
    "header": Kind(
        "files that begin with a header",
        f"{_SILENT} the first line is no box",
        "stop with an error that is not about headers, because the first line is no box",
    ),
    "columns": Kind(
        "files without the right number of columns",
        f"{_SILENT} a box is four numbers",
        f"{_STOP} a box is four numbers and others shift or leave the columns empty",
    ),
    "not numbers": Kind(
        "files with lines that are not numbers",
        f"{_SILENT} it cannot read them",
        f"{_STOP} it cannot read them",
    ),
    "number form": Kind(
        "files with numbers that are not plain decimals",
        "perhaps give no score, because no tool of its own writes exponents, signs or spaces",
        "perhaps read them; no tool of its own writes exponents, signs or spaces",
    ),
    "byte order mark": Kind(
        "files that begin with a byte order mark",
        f"{_SILENT} the first number has three bytes before it",
        "perhaps read them; elsewhere the mark makes the first number unreadable",
    ),
    "line ends": Kind(
        "files with carriage returns",
        "perhaps give no score, because its own tools end lines with LF alone",
        "perhaps read them; its own tools end lines with LF alone",
    ),
    "rows": Kind(
        "files without a row for each frame",
        f"{_SILENT} the boxes do not fit the ground truth",
        f"{_MISS} a row that lacks is a miss; rows too many are dropped",
    ),
    "not finite": Kind(
        "files with values that are not finite",
        f"{_SILENT} NaN is no box, or it spoils the mean",
        f"{_MISS} NaN overlaps nothing",
    ),
    "no size": Kind(
        "files with boxes without width or height",
        f"{_MISS} such a box overlaps nothing",
        f"{_MISS} such a box overlaps nothing",
    ),
    "far away": Kind(
        "files with coordinates of 100000 pixels and more",
        f"{_MISS} such a box overlaps nothing",
        f"{_MISS} such a box overlaps nothing",
    ),
    "one pixel off": Kind(
        "files that begin one pixel off the given box in x and y",
        "score it lower, because all boxes are one pixel off, as with a wrong base",
        "score it lower, because all boxes are one pixel off, as with a wrong base",
    ),
    "time format": Kind(
        "time files that are not numbers with commas",
        f"{_SILENT} its toolkit stops at such a file",
        "pass over them",
    ),
    "times missing": Kind(
        "sequences without a time file",
        "leave the speed out",
        "take none",
        error=False,
    ),
    "times": Kind(
        "time files that do not fit the boxes",
        "leave the speed out or compute it from the other frames",
        "take none",
        error=False,
    ),
    "first box": Kind(
        "files that do not begin with the given box",
        "take no notice, because the first frame does not count; the rest may be shifted too",
        "take no notice, because the first frame does not count; the rest may be shifted too",
        error=False,
    ),
    "outside": Kind(
        "files with boxes outside the image",
        f"{_MISS} nothing is there",
        f"{_MISS} nothing is there",
        error=False,
    ),
    "identical": Kind(
        "sequences whose runs are all the same",
        "give the score that one run gives; one is enough",
        "take one run only",
        error=False,
    ),
    "blank lines": Kind(
        "files with blank lines",
        "pass over them, as parsers do",
        "pass over them, as parsers do",
        error=False,
    ),
    "name": Kind(
        "files with more in the name than the sequence",
        "not find them",
        "find them, because it looks for the sequence's name anywhere in the path",
        error=False,
    ),
    "nested": Kind(
        "files in folders",
        "find them",
        "find them, because it looks at the end of the path; <sequence>.txt at the root is what it "
        "asks for",
        error=False,
    ),
}
"""Every kind of finding, the gravest first."""


def by_kind(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Sort findings into their kinds, the gravest kind first."""
    sorted_in: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    for finding in findings:
        sorted_in[finding.kind].append(finding)
    return {kind: found for kind, found in sorted_in.items() if found}


def finding_lines(findings: Iterable[Finding]) -> Iterator[tuple[str, str]]:
    """Yield (kind, line) for each kind of finding: title, count, the first few by name."""
    for kind, found in by_kind(findings).items():
        yield kind, f"{KINDS[kind].title} ({len(found):,}): {_first_few(found)}"


def _first_few(found: Sequence[Finding]) -> str:
    shown = ", ".join(finding.text() for finding in found[:_SHOWN])
    return shown if len(found) <= _SHOWN else f"{shown} and {len(found) - _SHOWN:,} more"
