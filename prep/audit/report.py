"""The report of an audit, as JSON that a build can exclude by; the models are the JSON."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import read_json, write_json

Severity = Literal["damage", "note"]


class Finding(BaseModel, strict=True, frozen=True):
    """One thing that was found in a sequence, or in a split as a whole."""

    kind: str
    severity: Severity
    message: str  # one line that names the file
    frames: list[int]  # counted from 0 as the reader gives the sequence; empty: all of the sequence


class BoxCounts(BaseModel, strict=True, frozen=True):
    """Annotated boxes of a split by what is wrong with them."""

    rows: int = 0
    absent: int = 0  # not visible, by the tree's flags or because the box has no size
    degenerate: int = 0  # without size, or not finite
    outside: int = 0  # visible, and wholly outside the image


class Counts(BaseModel, strict=True, frozen=True):
    """How much a split holds; what is expected is that of the whole split as published, None where unknown."""

    sequences: int = 0  # on disk, those that cannot be read among them (COCO: images)
    expected_sequences: int | None = None
    frames: int = 0
    expected_frames: int | None = None
    decoded: int = 0  # images that were
    boxes: BoxCounts = BoxCounts()


class SplitAudit(BaseModel, strict=True, frozen=True):
    """What an audit found in one split."""

    root: str
    deep: bool  # whether every image was decoded
    counts: Counts
    split: list[Finding]  # what concerns no single sequence
    sequences: dict[str, list[Finding]]  # only those with findings

    def findings(self) -> Iterator[Finding]:
        """Yield every finding, the split's own first."""
        yield from self.split
        yield from (finding for found in self.sequences.values() for finding in found)

    @property
    def damaged(self) -> int:
        """How many sequences have damage, one more where the split itself does."""
        found = [self.split, *self.sequences.values()]
        return sum(any(finding.severity == "damage" for finding in each) for each in found)


class _Report(BaseModel, strict=True, frozen=True):
    version: Literal[1]
    datasets: dict[str, SplitAudit]


def save_report(path: Path, audits: Mapping[str, SplitAudit]) -> None:
    """Write a report of splits, ``<dataset>-<split>`` → audit, and keep what the file says of others; a `UserError` if
    it cannot, or the file is no report.
    """
    before = load_report(path) if path.exists() else {}
    write_json(path, _Report(version=1, datasets={**before, **audits}).model_dump())


def load_report(path: Path) -> dict[str, SplitAudit]:
    """Read a report, ``<dataset>-<split>`` → audit; a `UserError` if it is not whole, or of another version."""
    values = read_json(path)
    try:
        return _Report.model_validate(values).datasets
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        what = f"is no whole report of lorat-prep check, or one of another version ({where}: {first['msg']})"
        raise UserError(f"{path}: {what}; delete it and run lorat-prep check again") from None
