"""``lorat-prep check``: audits raw trees before anything is built from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from lorat.prep.audit.check import audit
from lorat.prep.audit.report import Counts, SplitAudit, load_report, save_report
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.base.official import how_to_get, of_published
from lorat.prep.trees.base.reading import wording
from lorat.prep.trees.sources import SourceOptions
from lorat.shards.base.console import OUT, plain_table, progress_bar, say
from lorat.shards.base.disk import check_can_write
from lorat.shards.base.errors import Stopped
from lorat.shards.base.machine import usable_cores

_FILE = click.Path(path_type=Path, dir_okay=False)
_REPORT = "File for all findings; 'build --exclude' takes it."
_SHOWN = 10  # findings of damage printed a split; the report has all of them


@click.command("check", cls=Command)
@options_of(SourceOptions, "trees")
@click.option("--deep", is_flag=True, help="Decode every image, not just first and last ones.")
@click.option("--report", type=_FILE, default="check.json", show_default=True, help=_REPORT)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
def check_command(trees: SourceOptions, deep: bool, report: Path, workers: int | None) -> None:
    """Audit raw trees: counts, annotations, boxes, images.

    Any data set and split can be named, test sets too. Exit status 0: no damage. 1: damage was found; the audit went
    through to its end and the table says where. 2: a tree is missing, or another mistake on the command line.
    """
    _tell_how_to_get(
        [d.name for d, split in trees.wanted(trained=False).values() if trees.missing([(d, split)])], trees
    )
    sources = trees.sources(trained=False)
    # Refused now what would otherwise end an audit of hours.
    check_can_write(report)
    if report.exists():
        load_report(report)
    audits = {}
    try:
        for source in sources:
            with progress_bar(source.name) as update:
                audits[source.name] = audit(source, deep=deep, workers=workers or usable_cores(), progress=update)
    except KeyboardInterrupt:
        raise Stopped("stopped; no report was written") from None
    save_report(report, audits)
    _print(audits, report)
    lacking = (each for each in sources if _lacks(audits[each.name].counts))
    _tell_how_to_get([each.dataset.name for each in lacking], trees)
    if any(each.damaged for each in audits.values()):
        raise SystemExit(1)


def _lacks(counts: Counts) -> bool:
    return counts.expected_sequences is not None and counts.sequences < counts.expected_sequences


def _tell_how_to_get(names: Sequence[str], trees: SourceOptions) -> None:
    """Print where each data set is to be had and what unpacks it, each once."""
    known = {name: how for name in dict.fromkeys(names) if (how := how_to_get(name))[0]}
    for name, (page, lines) in known.items():
        say(f"To get {name}: {page}")
        for line in lines:
            say(f"    {line}")
    if known:
        say(f"with RAW={trees.folder} and ZIPS the folder of what was fetched; docs/data.md lists archives and sizes.")


def _print(audits: Mapping[str, SplitAudit], report: Path) -> None:
    table = plain_table(("data set", "sequences", "frames", "absent", "no size", "outside", "damaged"))
    for name, each in audits.items():
        counts, boxes = each.counts, each.counts.boxes
        whole = counts.sequences == counts.expected_sequences
        sequences = of_published(counts.sequences, counts.expected_sequences)
        frames = of_published(counts.frames, counts.expected_frames if whole else None)
        shares = (boxes.absent, boxes.degenerate, boxes.outside)
        cells = (f"{count / boxes.rows:.1%}" if boxes.rows else "-" for count in shares)
        table.add_row(name, sequences, frames, *cells, f"{each.damaged:,}", style="red" if each.damaged else "")
    OUT.print(table)
    say("'of': as published. Shares of boxes: 'absent', not visible; 'no size', without")
    say("width or height, so absent too; 'outside', visible but nowhere in the image.")
    for name, each in audits.items():
        damage = [finding.message for finding in each.findings() if finding.severity == "damage"]
        for message in damage[:_SHOWN]:
            say(f"damage: {name}: {message}")
        if len(damage) > _SHOWN:
            say(f"damage: {name}: {len(damage) - _SHOWN:,} more in {report}")
        for finding in each.split:
            if finding.severity == "note":
                say(f"note: {name}: {finding.message}")
        alike = dict[tuple[str, str], list[str]]()  # notes of one kind and wording
        for sequence, findings in each.sequences.items():
            for note in (finding for finding in findings if finding.severity == "note"):
                alike.setdefault((note.kind, wording(sequence, note.message)), []).append(note.message)
        for (kind, _), messages in sorted(alike.items()):
            count = f"{len(messages):,} sequences, such as " if len(messages) > 1 else ""
            say(f"note: {name}: {kind}: {count}{messages[0]}")
    split_alone = sum(any(f.severity == "damage" for f in a.split) for a in audits.values())
    damaged = sum(each.damaged for each in audits.values())
    if damaged > split_alone:
        say(f"Findings in {report}; 'lorat-prep build --exclude {report}' leaves damage out.")
    elif damaged:
        say(f"Findings in {report}; what is wrong with a whole tree has to be mended first.")
    else:
        say(f"No damage. Findings in {report}.")
