"""A profile as tables of at most 80 columns."""

from __future__ import annotations

from rich.table import Table

from lorat.shards.base.console import OUT, plain_table, say
from lorat.train.profile.profile import GIB, Profile, Trial, usable_share

__all__ = ["print_profile"]

_MIB = 2**20


def print_profile(profile: Profile) -> None:
    """Print all of a profile on stdout; each table says whether it is computed or measured."""
    setting, train = profile.setting, profile.setting.train
    number_type = str(setting.dtype).removeprefix("torch.")
    extras = [
        text
        for text, holds in {
            f"{train.accumulate} micro-batches": train.accumulate > 1,
            "activations checkpointed": train.checkpoint_activations,
            "compiled": train.compile,
        }.items()
        if holds
    ]
    pairs = f"{train.batch_size} pairs a step"
    say(", ".join([f"{setting.variant.name}: {pairs}", number_type, setting.device.type, *extras]))
    tables = [_parameters(profile), _operations(profile), _memory(profile)]
    if profile.trial is not None:
        tables.append(_measured(profile.trial))
    for table in tables:
        say("")
        OUT.print(table)
    for note in profile.notes:
        say(note)


def _parameters(profile: Profile) -> Table:
    table = plain_table(["parameters", "all", "trained"])
    for part in profile.parts:
        if part.every:
            table.add_row(part.name, f"{part.every:,}", f"{part.trained:,}")
    totals = (sum(p.every for p in profile.parts), sum(p.trained for p in profile.parts))
    table.add_row("together", *(f"{total:,}" for total in totals))
    return table


def _operations(profile: Profile) -> Table:
    frame, step, setting = profile.frame, profile.step, profile.setting
    table = plain_table(["operations, computed (2 a multiply-add)", "GFLOP"])
    table.add_row("a tracked frame, LoRA merged", _giga(frame.track))
    table.add_row("a template, once a sequence", _giga(frame.template))
    table.add_row("template and search, merged, last block whole", _giga(frame.whole))
    if profile.beside > frame.whole:
        table.add_row("the same with LoRA beside its layers", _giga(profile.beside))
    table.add_row("training, a pair forward", _giga(step.forward / setting.train.batch_size))
    table.add_row(
        "training, a pair forward and backward", _giga(step.flops / setting.train.batch_size)
    )
    return table


def _memory(profile: Profile) -> Table:
    step = profile.step
    unit, size = ("GiB", GIB) if step.peak >= GIB else ("MiB", _MIB)
    at_once = f"{step.pairs} pair{'s' * (step.pairs > 1)} at once"
    table = plain_table([f"memory of a step, computed ({at_once})", unit])
    rows = {
        "weights": step.weights,
        "optimiser": step.optimiser,
        "gradients": step.gradients,
        "activations kept for the backward pass": step.activations,
        "most at a time": step.peak,
        "each pair more": profile.pair,
    }
    for name, value in rows.items():
        table.add_row(name, f"{value / size:,.2f}")
    here = " free here" if profile.is_here else ""
    share = usable_share(profile.setting.device)
    for room, pairs in profile.largest:
        text = f"pairs at once that fit {share:.0%} of {room / GIB:.1f} GiB{here}"
        table.add_row(text, f"{pairs:,}")
    return table


def _measured(trial: Trial) -> Table:
    measured, cost, setting = trial.measured, trial.cost, trial.setting
    at_once = f"{cost.pairs} pair{'s' * (cost.pairs > 1)} at once"
    table = plain_table([f"measured on {setting.device} ({at_once})", ""])
    table.add_row(f"a step, median of {len(measured.seconds)}, ms", f"{measured.median * 1e3:,.1f}")
    table.add_row("pairs a second", f"{setting.train.batch_size / measured.median:,.2f}")
    share = cost.flops / measured.median / trial.rate
    text = f"share of a matrix product's rate ({_giga(trial.rate)} GFLOP/s)"
    table.add_row(text, f"{share:.0%}")
    if measured.peak is not None:
        what = "of the process, GiB" if setting.device.type == "cpu" else "of tensors, GiB"
        table.add_row(f"most memory {what}", f"{measured.peak / GIB:,.2f}")
        if measured.before:
            table.add_row("of it before the network, GiB", f"{measured.before / GIB:,.2f}")
        table.add_row("computed for these pairs, GiB", f"{cost.peak / GIB:,.2f}")
    return table


def _giga(operations: float) -> str:
    value = operations / 1e9
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"
