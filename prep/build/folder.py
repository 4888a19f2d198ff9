"""What of a plan is in its folder already; none but its own shards may be.

Promise: a folder that was begun with another configuration, or holds more than is asked for, is refused before anything
in it changes.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import takewhile
from typing import Any

from lorat.prep.build.plan import Plan
from lorat.prep.pairs.draw import DRAWING
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import children, file_size, read_json, write_json
from lorat.shards.manifest import MANIFEST, Receipt, load_manifest, load_receipt

PLAN = "plan.json"
_VERSION = 1  # of that file
_NAMED_LATER = {"drawing", "resampler"}  # in the configuration, which had all else before
_THREADS = 16  # receipts are asked for at once, since a remote store takes its time for each


def as_begun(plan: Plan) -> Plan:
    """Return a plan with the configuration that its folder was begun with, where that is of a release that named
    neither rules of drawing nor resampler: such builds go on as they are while the rules are still the first.
    """
    note = begun(plan)
    if DRAWING != 1 or note is None or _NAMED_LATER & note["config"].keys():
        return plan
    return replace(plan, config={k: v for k, v in plan.config.items() if k not in _NAMED_LATER})


def check_folder(plan: Plan) -> None:
    """Refuse a folder whose shards were built with another configuration, or go past the last pair of this plan, since
    shortening would throw finished shards away; writes nothing.
    """
    names = re.compile(rf"{re.escape(plan.name)}-(\d+)\.receipt\.json")
    found = (names.fullmatch(file.name) for file in children(plan.folder))
    numbers = sorted((int(match[1]) for match in found if match), reverse=True)
    before: dict[str, Any] = plan.config
    if file_size(plan.folder / MANIFEST) is not None:
        before = load_manifest(plan.folder).config
    elif numbers and (note := begun(plan)):
        before = note["config"]
    if differing := [k for k in {**before, **plan.config} if before.get(k) != plan.config.get(k)]:
        # Other exclusions make other annotations; the reason is what helps.
        key = next((key for key in differing if key != "annotations"), differing[0])
        what = f"was built with another {key} ({before.get(key)} instead of {plan.config.get(key)})"
        raise UserError(f"{plan.folder}: {what}; delete the folder or build into another --shards")
    # Backwards from the end: one damaged shard there must not hide the whole ones before it.
    for number in takewhile(lambda number: number >= plan.shards() - 1, numbers):
        receipt = load_receipt(plan.folder, plan.shard(number), plan.fingerprint())
        if receipt is not None and (there := receipt.pairs.stop) > plan.pairs:
            raise UserError(
                f"{plan.folder}: holds shards up to pair {there:,}, {plan.pairs:,} are asked for; ask for --pairs "
                f"{there} or more (or a larger --budget), delete the folder, or build into another --shards"
            )


def begin(plan: Plan) -> None:
    """Write down in the folder what is built there; errors as `check_folder`, or of writing."""
    check_folder(plan)
    now = {"version": _VERSION, "config": plan.config, "parts": plan.options.part.of if plan.options.part else 1}
    if begun(plan) != now:
        write_json(plan.folder / PLAN, now)


def begun(plan: Plan) -> dict[str, Any] | None:
    """Return what `begin` wrote into the folder; None where it did not."""
    if file_size(file := plan.folder / PLAN) is None:
        return None
    match note := read_json(file):
        case {"version": int(version), "config": dict(), "parts": int()} if version == _VERSION:
            return note
    remedy = "if the shards beside it were built with the same options, delete it and run again"
    raise UserError(f"{file}: is not what this release writes (version {_VERSION}); {remedy}")


def receipts(plan: Plan, numbers: Sequence[int]) -> dict[int, Receipt]:
    """Return the receipts of those of some shards that are there and whole, by shard number."""
    config = plan.fingerprint()
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda n: (n, load_receipt(plan.folder, plan.shard(n), config)), numbers)
        return {n: one for n, one in found if one and one.pairs == plan.pair_range(n)}


def finished(plan: Plan, numbers: Sequence[int]) -> dict[int, Receipt]:
    """Return the receipts of the shards that need not be built again, by shard number.
    Shards that lost pairs are, when more is lost than allowed: the frames may have been mended.
    """
    done = receipts(plan, numbers)
    enough = len(losses(done)) <= plan.options.max_bad
    return {number: receipt for number, receipt in done.items() if enough or not receipt.bad}


def losses(done: dict[int, Receipt]) -> list[str]:
    """Return a message for each pair that damaged frames cost."""
    return [message for receipt in done.values() for message in receipt.bad]
