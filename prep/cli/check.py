"""``lorat-prep check``: audits raw trees before anything is built from them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click
from rich.table import Table

from lorat.prep.audit.check import CheckOptions, audit, read_tree
from lorat.prep.audit.report import SplitAudit, save_report
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.sources import Source, SourceOptions
from lorat.shards.base.console import INTERRUPTED, OUT, plain_table, progress_bar, say
from lorat.shards.base.errors import UserError
from lorat.shards.base.process import usable_cores

__all__ = ["check_command"]

_SHOWN = 10  # findings of damage printed a split; the report has all of them


@click.command("check", cls=Command)
@options_of(SourceOptions, "trees")
@click.option("--deep", is_flag=True, help="Decode every image, not just first and last ones.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("check.json"),
    show_default=True,
    help="File for all findings; 'build --exclude' takes it.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
def check_command(trees: SourceOptions, deep: bool, report: Path, workers: int | None) -> None:
    """Audit raw trees: counts, annotations, boxes, images.

    Any data set and split can be named, test sets too. Exit status 0: no damage. 1: damage was
    found; the audit went through to its end and the table says where. 2: a tree is missing, or
    another mistake on the command line.
    """
    sources = trees.sources(trained=False)
    _refuse_unwritable(report)
    options = CheckOptions(deep, workers or usable_cores())
    try:
        audits = [_audit(source, options) for source in sources]
    except KeyboardInterrupt:
        click.echo("Stopped; no report was written.", err=True)
        raise SystemExit(INTERRUPTED) from None
    save_report(report, audits)
    _print(audits, report)
    if any(each.damaged for each in audits):
        raise SystemExit(1)


def _audit(source: Source, options: CheckOptions) -> SplitAudit:
    with progress_bar(f"{source.name}: annotations") as update:
        tree = read_tree(source, update)
    with progress_bar(f"{source.name}: images") as update:
        return audit(source, tree, options, update)


def _refuse_unwritable(report: Path) -> None:
    """Raise now what would otherwise end an audit of hours."""
    folder = report.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder for --report; make it or name another file")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written; name another file with --report")


def _print(audits: list[SplitAudit], report: Path) -> None:
    OUT.print(_table(audits))
    say("'of': as published. Shares of boxes: 'absent', not visible; 'no size', without")
    say("width or height, so absent too; 'outside', visible but nowhere in the image.")
    for each in audits:
        damage = [finding for finding in each.all_findings() if finding.severity == "damage"]
        for finding in damage[:_SHOWN]:
            say(f"damage: {each.name}: {finding.message}")
        if len(damage) > _SHOWN:
            say(f"damage: {each.name}: {len(damage) - _SHOWN:,} more in {report}")
        for line in _notes(each):
            say(line)
    of_sequences = [f for each in audits for found in each.findings.values() for f in found]
    if any(finding.severity == "damage" for finding in of_sequences):
        say(f"Findings in {report}; 'lorat-prep build --exclude {report}' leaves damage out.")
    elif any(each.damaged for each in audits):
        say(f"Findings in {report}; a tree that cannot be read has to be mended first.")
    else:
        say(f"No damage. Findings in {report}.")


def _table(audits: list[SplitAudit]) -> Table:
    table = plain_table(
        ("data set", "sequences", "frames", "absent", "no size", "outside", "damaged")
    )
    for each in audits:
        boxes, whole = each.boxes, each.sequences == each.expected_sequences
        shares = (boxes.absent, boxes.degenerate, boxes.outside)
        table.add_row(
            each.name,
            _of(each.sequences, each.expected_sequences),
            _of(each.frames, each.expected_frames if whole else None),
            *(f"{count / boxes.rows:.1%}" if boxes.rows else "-" for count in shares),
            f"{each.damaged:,}",
            style="red" if each.damaged else "",
        )
    return table


def _of(count: int, expected: int | None) -> str:
    return f"{count:,}" if expected in (None, count) else f"{count:,} of {expected:,}"


def _notes(each: SplitAudit) -> Iterable[str]:
    """Yield a line for each kind of note; the table has the number of sequences already."""
    kinds: dict[str, list[str]] = {}
    for finding in each.all_findings():
        if finding.severity == "note" and finding not in each.split_findings:
            kinds.setdefault(finding.kind, []).append(finding.message)
    for kind, messages in sorted(kinds.items()):
        count = f"{len(messages):,} sequences, such as " if len(messages) > 1 else ""
        yield f"note: {each.name}: {kind}: {count}{messages[0]}"
