"""The report of an audit: what was found in each split, as JSON that a build can exclude by.

``{"version": 1, "datasets": {"lasot-train": {"root", "deep", "counts", "split", "sequences"}}}``:
`counts` are numbers; `split` lists the findings that concern no single sequence; `sequences` maps
the name of each sequence with findings to them, ``{"kind", "severity", "message", "frames"}``.
Sequences without findings are only counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lorat.prep.audit.findings import BoxCounts, Finding
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import read_json, write_json

__all__ = ["SplitAudit", "load_report", "save_report"]

_VERSION = 1


@dataclass(frozen=True, slots=True)
class SplitAudit:
    """What an audit found in one split."""

    name: str
    """``<dataset>-<split>``."""
    root: str
    deep: bool
    """Whether every image was decoded."""
    sequences: int = 0
    """On disk, those that cannot be read among them (COCO: images)."""
    expected_sequences: int | None = None
    """Of the whole split as published; None where unknown."""
    frames: int = 0
    expected_frames: int | None = None
    decoded: int = 0
    """Images that were decoded."""
    boxes: BoxCounts = field(default_factory=BoxCounts)
    split_findings: tuple[Finding, ...] = ()
    """What concerns no single sequence."""
    findings: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    """Sequence → what was found; sequences without findings are not in it."""

    def all_findings(self) -> Iterator[Finding]:
        """Yield every finding, the split's own first."""
        yield from self.split_findings
        yield from (finding for findings in self.findings.values() for finding in findings)

    @property
    def damaged(self) -> int:
        """How many sequences have damage, one more where the split itself does."""
        found = [self.split_findings, *self.findings.values()]
        return sum(any(f.severity == "damage" for f in findings) for findings in found)


def save_report(path: Path, audits: list[SplitAudit]) -> None:
    """Write a report, atomically.

    Raises:
        UserError: if the file cannot be written.
    """
    datasets = {audit.name: _to_json(audit) for audit in audits}
    try:
        write_json(path, {"version": _VERSION, "datasets": datasets})
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); name another file with --report"
        ) from None


def load_report(path: Path) -> list[SplitAudit]:
    """Read a report.

    Raises:
        UserError: if the file is missing, is no report, or one of another version.
    """
    document = read_json(path)
    version = document.get("version") if isinstance(document, dict) else None
    if version != _VERSION:
        raise UserError(
            f"{path}: is no report of lorat-prep check, or one of another version ({version!r}, "
            f"known: {_VERSION}); run lorat-prep check again"
        )
    try:
        return [_from_json(name, entry) for name, entry in document["datasets"].items()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: is no whole report ({type(error).__name__}: {error}); run lorat-prep check "
            "again"
        ) from None


def _to_json(audit: SplitAudit) -> dict[str, Any]:
    return {
        "root": audit.root,
        "deep": audit.deep,
        "counts": {
            "sequences": audit.sequences,
            "expected_sequences": audit.expected_sequences,
            "frames": audit.frames,
            "expected_frames": audit.expected_frames,
            "decoded": audit.decoded,
            "boxes": asdict(audit.boxes),
        },
        "split": [asdict(finding) for finding in audit.split_findings],
        "sequences": {
            sequence: [asdict(finding) for finding in findings]
            for sequence, findings in audit.findings.items()
        },
    }


def _from_json(name: str, entry: dict[str, Any]) -> SplitAudit:
    counts = dict(entry["counts"])
    boxes = BoxCounts(**counts.pop("boxes"))
    return SplitAudit(
        name,
        str(entry["root"]),
        bool(entry["deep"]),
        **counts,
        boxes=boxes,
        split_findings=tuple(map(_finding, entry["split"])),
        findings={s: tuple(map(_finding, found)) for s, found in entry["sequences"].items()},
    )


def _finding(row: dict[str, Any]) -> Finding:
    severity, frames = row["severity"], row["frames"]
    if severity not in ("damage", "note"):
        raise ValueError(f"severity {severity!r}")
    if not all(type(number) is int for number in frames):
        raise ValueError(f"frames {frames!r}")
    return Finding(str(row["kind"]), severity, str(row["message"]), tuple(frames))
