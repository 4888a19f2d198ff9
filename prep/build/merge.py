"""The manifest of a build that ran in parts, once all of them are there."""

from __future__ import annotations

from collections.abc import Sequence

from lorat.prep.build.run import BuildReport, sum_up
from lorat.prep.build.log import open_log
from lorat.prep.build.plan import Plan, check_folder, check_losses, finished, planned_parts
from lorat.shards.base.errors import UserError

__all__ = ["merge"]

_NAMED = 5  # missing shards that are named one by one


def merge(plan: Plan) -> BuildReport:
    """Check that every shard of a plan is there, and write the manifest.

    Args:
        plan: made with the options of the parts, of the whole (no part).

    Raises:
        UserError: if shards are missing, with the parts to run again; if the folder holds shards of
            another build; if the parts together lost more pairs than are allowed.
    """
    check_folder(plan)
    parts = planned_parts(plan)
    numbers = plan.mine()
    done = finished(plan, numbers, all_losses=True)
    missing = [number for number in numbers if number not in done]
    if missing:
        raise UserError(_lacking(plan, missing, parts))
    receipts = [done[number] for number in numbers]
    check_losses(receipts, plan.options.max_bad)
    with open_log(plan) as log:
        report = sum_up(plan, receipts, built=0)
        log.write("merged", rows=report.manifest.rows, skipped=report.skipped)
    return report


def _lacking(plan: Plan, missing: Sequence[int], parts: int) -> str:
    names = ", ".join(plan.shard(number) for number in missing[:_NAMED])
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    again = sorted({number % parts + 1 for number in missing})
    options = " and ".join(f"--part {number}/{parts}" for number in again)
    remedy = f"run {options} again" if parts > 1 else "build it without --merge"
    return (
        f"{plan.folder}: {len(missing)} of {plan.shards()} shards are missing ({names}{more}); "
        f"{remedy}"
    )
