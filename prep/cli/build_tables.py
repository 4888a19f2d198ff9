"""The tables that ``lorat-prep build`` prints: what to expect, and what was built."""

from __future__ import annotations

from collections.abc import Sequence

from lorat.prep.browse.sets import print_sets
from lorat.prep.build.estimate import Estimate, free_bytes
from lorat.prep.build.run import BuildReport
from lorat.shards.base.console import OUT, plain_table, say
from lorat.shards.base.storage import Location

__all__ = ["print_estimates", "print_reports"]


def print_estimates(estimates: Sequence[Estimate], slots: int, shards: Location) -> None:
    """Print what a build will take, a row a data set, and the space that is free.

    Args:
        estimates: of the data sets.
        slots: jobs at once.
        shards: where they go.
    """
    columns = ("data set", "pairs", "there", "to build", "KB/pair", "GB", "minutes")
    table = plain_table(columns, f"To build in {shards}")
    for one in estimates:
        known = one.sampled > 0
        table.add_row(
            one.name,
            f"{one.pairs:,}",
            f"{one.there:,}",
            f"{one.to_build:,}",
            f"{one.bytes_per_pair / 1e3:.1f}" if known else "-",
            f"{one.bytes / 1e9:,.2f}",
            f"{one.seconds / 60:,.1f}",
        )
    if len(estimates) > 1:
        table.add_section()
        gigabytes = sum(one.bytes for one in estimates) / 1e9
        minutes = sum(one.seconds for one in estimates) / 60
        pairs, there, left = (
            f"{sum(numbers):,}"
            for numbers in zip(*((e.pairs, e.there, e.to_build) for e in estimates), strict=True)
        )
        table.add_row("sum", pairs, there, left, "", f"{gigabytes:,.2f}", f"{minutes:,.1f}")
    OUT.print(table)
    sampled = sum(one.sampled for one in estimates)
    free = free_bytes(shards)
    room = "" if free is None else f"; {free / 1e9:,.1f} GB are free"
    say(f"From {sampled} pairs cut now; {slots} at once{room}.")


def print_reports(reports: Sequence[BuildReport], shards: Location) -> None:
    """Print what stands in the shards of each data set, and what was skipped and why.

    Args:
        reports: of the data sets.
        shards: where they are.
    """
    print_sets([report.manifest for report in reports], f"Shards in {shards}")
