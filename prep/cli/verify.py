"""``lorat-prep verify``: audits shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from lorat.prep.browse.sets import find_sets
from lorat.prep.commandline import Command, LocationType
from lorat.prep.pool import LocalEngine, Tell
from lorat.shards.base.console import INTERRUPTED, OUT, plain_table, progress_bar, say
from lorat.shards.base.process import usable_cores
from lorat.shards.base.storage import Location, write_json
from lorat.shards.verify.verify import Fault, SetPlan, ShardAudit, ShardJob, audit_shard, plan_audit

__all__ = ["verify_command"]

_RUN = 4  # so many rows in a row with the same fault are printed as one line
_DAMAGED = 1


@dataclass(frozen=True, slots=True)
class _Result:
    """A data set split and what came of its shards, in their order."""

    plan: SetPlan
    audits: tuple[ShardAudit, ...]

    @property
    def faults(self) -> list[Fault]:
        """All faults, of the manifest and of the shards."""
        return [*self.plan.faults, *(fault for audit in self.audits for fault in audit.faults)]


@click.command("verify", cls=Command)
@click.argument("shards", type=LocationType(), default=Path("data/shards"))
@click.option("--deep", is_flag=True, help="Decode every image as well.")
@click.option(
    "--datasets", help="Shard sets, such as lasot-train,coco; 'coco' is all splits.  [default: all]"
)
@click.option(
    "--json",
    "report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that all faults go into as JSON.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
def verify_command(
    shards: Location, deep: bool, datasets: str | None, report: Path | None, workers: int | None
) -> None:
    """Check every shard under SHARDS (data/shards), a folder or a URL.

    Receipts, sizes, checksums, every row's hash, tar members and JSON. Everything that is wrong is
    listed with shard, row, key and byte. Exit status 0: all whole. 1: something is damaged. 2: no
    shards there, or another mistake on the command line.
    """
    sets = find_sets(shards, datasets)
    plans = [plan_audit(folder, deep) for folder in sets.folders]
    jobs = tuple(job for plan in plans for job in plan.jobs)
    try:
        audits = _run(jobs, workers or usable_cores())
    except KeyboardInterrupt:
        click.echo("Stopped before the end.", err=True)
        raise SystemExit(INTERRUPTED) from None
    results = _sort(plans, audits)
    for line in _fault_lines([fault for result in results for fault in result.faults]):
        say(f"damaged: {line}")
    for plan in plans:
        for note in plan.notes:
            say(f"note: {plan.folder}: {note}")
    for folder in sets.unfinished:
        say(f"note: {folder}: no manifest, so its build has not ended; not checked")
    OUT.print(_table(results))
    _say_remedy(results, deep)
    if report:  # last, so that a file that cannot be written costs no result
        write_json(report, _as_json(results))
    if any(result.faults for result in results):
        raise SystemExit(_DAMAGED)


def _run(jobs: Sequence[ShardJob], workers: int) -> list[ShardAudit]:
    total = sum(job.receipt.rows for job in jobs)
    audits: list[ShardAudit] = []
    rows = 0
    with progress_bar("pairs checked") as update:

        def tell(message: tuple[int, ShardAudit]) -> None:
            nonlocal rows
            number, audit = message
            audits.append(audit)
            rows += jobs[number].receipt.rows
            update(rows, total)

        LocalEngine(workers).run(_audit_one, jobs, range(len(jobs)), tell)
    return audits


def _audit_one(jobs: Sequence[ShardJob], number: int, tell: Tell) -> None:
    tell((number, audit_shard(jobs[number])))


def _sort(plans: Sequence[SetPlan], audits: Sequence[ShardAudit]) -> list[_Result]:
    found = {audit.path: audit for audit in audits}
    return [_Result(p, tuple(found[str(job.path)] for job in p.jobs)) for p in plans]


def _fault_lines(faults: Sequence[Fault]) -> Iterator[str]:
    """Yield a line a fault; a long run of rows with the same fault is one line."""
    numbered = [(fault, n) for n, fault in enumerate(faults)]

    def same(item: tuple[Fault, int]) -> tuple[str, str, int | None]:
        fault, n = item
        return fault.file, fault.what, None if fault.row is None else fault.row - n

    for _, items in groupby(numbered, key=same):
        run = [fault for fault, _ in items]
        if len(run) < _RUN:
            yield from (fault.line() for fault in run)
            continue
        first, last = run[0], run[-1]
        rows = f"rows {first.row} to {last.row} ({first.key} to {last.key})"
        at = "" if first.offset is None else f" from byte {first.offset} to {last.offset}"
        yield f"{first.file} {rows}{at}: each {first.what}"


def _table(results: Sequence[_Result]) -> Table:
    table = plain_table(("data set", "shards", "pairs", "MB", "damaged shards", "faults"))
    for result in results:
        damaged = {fault.shard for fault in result.faults if fault.shard}
        table.add_row(
            result.plan.name,
            f"{len(result.audits):,}",
            f"{sum(audit.rows for audit in result.audits):,}",
            f"{sum(audit.bytes for audit in result.audits) / 1e6:,.1f}",
            f"{len(damaged):,}",
            f"{len(result.faults):,}",
            style="red" if result.faults else "",
        )
    return table


def _say_remedy(results: Sequence[_Result], deep: bool) -> None:
    faults = [fault for result in results for fault in result.faults]
    if not faults:
        say(f"All whole{', images decoded' if deep else ''}.")
        return
    shards = sorted({fault.shard for fault in faults if fault.shard})
    manifests = sorted({fault.file for fault in faults if not fault.shard})
    say("Delete these and run the same lorat-prep build again; it builds only what is gone:")
    for path in [*shards, *manifests]:
        say(f"  {path}")


def _as_json(results: Sequence[_Result]) -> dict[str, Any]:
    return {
        "sets": [
            {
                "name": result.plan.name,
                "folder": str(result.plan.folder),
                "shards": len(result.audits),
                "pairs": sum(audit.rows for audit in result.audits),
                "bytes": sum(audit.bytes for audit in result.audits),
                "faults": [asdict(fault) for fault in result.faults],
                "notes": list(result.plan.notes),
            }
            for result in results
        ]
    }
