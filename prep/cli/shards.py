"""``lorat-prep verify``, ``stats`` and ``inspect``: shards audited, counted and looked at."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from lorat.configs.load import load_recipe
from lorat.prep.browse.samples import Found, draw_sheet, find_sample, frames_of, pick_samples
from lorat.prep.browse.sets import SetSizes, find_sets, load_sets, print_sets
from lorat.prep.browse.stats import MEASURES, QUANTILES, freshness, object_side, sample_stats
from lorat.prep.commandline import Command, LocationType, options_of
from lorat.prep.pool import LocalEngine, Tell
from lorat.shards.base.console import OUT, plain_table, progress_bar, say
from lorat.shards.base.disk import check_can_write
from lorat.shards.base.errors import Stopped, UserError
from lorat.shards.base.machine import usable_cores
from lorat.shards.base.storage import Location, StoreOptions, write_json
from lorat.shards.sample import VERSION, StoredImage, image_roles
from lorat.shards.verify.shard import ShardAudit, ShardFault, ShardJob, audit_shard
from lorat.shards.verify.verify import SetAudit, plan_audit

_RUN = 4  # so many rows in a row with the same fault are printed as one line
_DAMAGED = 1
_FILE = click.Path(path_type=Path, dir_okay=False)


def _sets(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument SHARDS, --datasets, and what is asked of stores."""

    @functools.wraps(command)
    def using(store: StoreOptions, **values: Any) -> None:
        store.use()
        command(**values)

    names = "Shard sets, such as lasot-train,coco; 'coco' is all splits.  [default: all]"
    place = click.argument("shards", type=LocationType(), default=Path("data/shards"))
    return place(click.option("--datasets", help=names)(options_of(StoreOptions, "store")(using)))


@click.command("verify", cls=Command)
@_sets
@click.option("--deep", is_flag=True, help="Decode every image as well.")
@click.option("--json", "report", type=_FILE, help="File that all faults go into as JSON.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
def verify_command(
    shards: Location, datasets: str | None, deep: bool, report: Path | None, workers: int | None
) -> None:
    """Check every shard under SHARDS (data/shards), a folder or a URL.

    Receipts, sizes, checksums, every row's hash, tar members and JSON. Everything that is wrong is listed with shard,
    row, key and byte. Exit status 0: all whole. 1: something is damaged. 2: no shards there, or another mistake on the
    command line.
    """
    folders, unfinished = find_sets(shards, datasets)
    check_can_write(*filter(None, [report]))
    results = _verify(folders, deep, workers or usable_cores())
    faults = [fault for result in results for fault in result.faults]
    for line in _fault_lines(faults):
        say(f"damaged: {line}")
    for result in results:
        for note in result.notes:
            say(f"note: {result.folder}: {note}")
    for folder in unfinished:
        say(f"note: {folder}: no manifest, so its build has not ended; not checked")
    table = plain_table(("data set", "shards", "pairs", "MB", "damaged shards", "faults"))
    for result in results:
        damaged = len({fault.shard for fault in result.faults} - {None})
        counts = (result.shards, result.pairs, result.bytes / 1e6, damaged, len(result.faults))
        cells = (f"{count:,.{int(isinstance(count, float))}f}" for count in counts)
        table.add_row(result.name, *cells, style="red" if result.faults else "")
    OUT.print(table)
    if faults:
        say("Delete these and run the same lorat-prep build again; it builds only what is gone:")
        # Manifests, which no shard is named for, come last.
        for _, path in sorted({(not fault.shard, fault.shard or fault.file) for fault in faults}):
            say(f"  {path}")
    else:
        say(f"All whole{', images decoded' if deep else ''}.")
    if report:  # last, so that a disk that is full by now costs no result
        write_json(report, {"sets": [asdict(result) for result in results]})
    if faults:
        raise SystemExit(_DAMAGED)


def _verify(folders: Sequence[Location], deep: bool, workers: int) -> list[SetAudit]:
    plans = [plan_audit(folder, deep) for folder in folders]
    jobs = [job for _, jobs in plans for job in jobs]
    total = sum(job.receipt.rows for job in jobs)
    audits: dict[str, ShardAudit] = {}
    with progress_bar("pairs checked") as update:

        def take(audit: ShardAudit) -> None:
            audits[audit.path] = audit
            update(sum(done.rows for done in audits.values()), total)

        try:
            LocalEngine(workers).run(_audit_one, None, jobs, take)
        except KeyboardInterrupt:
            raise Stopped("stopped before the end") from None
    for result, jobs in plans:
        for job in jobs:
            result.add(audits[str(job.path)])
    return [result for result, _ in plans]


def _audit_one(_: None, job: ShardJob, tell: Tell) -> None:
    tell(audit_shard(job))


def _fault_lines(faults: Sequence[ShardFault]) -> Iterator[str]:
    """Yield a line a fault; a long run of rows with the same fault is one line."""
    places = ((f.file, f.what, f.row if f.row is None else f.row - n) for n, f in enumerate(faults))
    for _, items in groupby(zip(places, faults, strict=True), key=itemgetter(0)):
        run = [fault for _, fault in items]
        first, last = run[0], run[-1]
        if len(run) < _RUN or first.row is None:
            yield from map(str, run)
        else:
            rows = f"rows {first.row} to {last.row} ({first.key} to {last.key})"
            at = "" if first.offset is None else f" from byte {first.offset} to {last.offset}"
            yield f"{first.file} {rows}{at}: each {first.what}"


@click.command("stats", cls=Command)
@_sets
@click.option(
    "--recipe",
    multiple=True,
    default=["standard"],
    show_default=True,
    help="A name or a YAML file, of several the later over the earlier: how often it draws each pair.",
)
@click.option(
    "--sample", type=click.IntRange(min=1), default=2000, show_default=True, help="Most pairs a data set that are read."
)
@click.option("--json", "report", type=_FILE, help="File that all numbers go into as JSON.")
def stats_command(
    shards: Location, datasets: str | None, recipe: tuple[str, ...], sample: int, report: Path | None
) -> None:
    """Tell what is in the shards under SHARDS (data/shards), a folder or a URL.

    Pairs, bytes, skipped pairs and cut windows are exact; objects, gaps and images come from the pairs that are read.
    Exit status 2 when no shards are there or one is damaged.
    """
    check_can_write(*filter(None, [report]))
    plan, manifests, stats = load_recipe(recipe), load_sets(shards, datasets), {}
    for manifest in manifests:
        with progress_bar(manifest.name) as update:
            stats[manifest.name] = sample_stats(manifest, sample, update)
    fresh = freshness(plan, manifests)
    if report:
        sets = [SetSizes.of(m)._asdict() | stats[m.name]._asdict() | stats[m.name].quantiles for m in manifests]
        for numbers in sets:
            del numbers["quantiles"]
        drawn = [one._asdict() for one in fresh]
        write_json(report, {"quantiles": QUANTILES, "sets": sets, "recipe": plan.name, "freshness": drawn})
    print_sets(manifests)
    for title, group in groupby(MEASURES.items(), key=lambda item: item[1].table):
        table = plain_table(("data set", "", *(f"{q:.0%}" for q in QUANTILES)), title)
        table.columns[1].justify = "left"
        rows = {key: measure.row for key, measure in group}
        for name, each in stats.items():
            for key, row in rows.items():
                cells = [f"{v:,.{0 if v >= 10 or v.is_integer() else 1}f}" for v in each.quantiles[key]]
                table.add_row(name, row.format(same_frame=each.same_frame), *(cells or "-" * len(QUANTILES)))
                name = ""
        OUT.print(table)
    read = [stats[m.name].sampled for m in manifests if stats[m.name].sampled < m.rows]
    said = f"from {max(read):,} pairs of each set that holds more" if read else "all pairs were read"
    say(f"Objects, images and gaps: {said}.")
    table = plain_table(("data set", "weight", "pairs", "draws", "drawn each", "fresh"), f"Recipe {plan.name}")
    for one in fresh:
        pairs = "not here" if one.pairs is None else f"{one.pairs:,}"
        times = "-" if one.times is None else f"{one.times:,.{2 if one.times < 100 else 0}f} x"
        pool = "-" if one.fresh is None else f"{one.fresh:.3g}"
        table.add_row(one.name, str(one.weight), pairs, f"{one.draws:,}", times, pool)
    OUT.print(table)
    say("'fresh': pairs / draws of the run; from 1 on, no pair is drawn twice.")
    if unused := [name for name in stats if name not in plan.data.datasets]:
        say(f"Not drawn by recipe {plan.name}: {', '.join(unused)}.")


@click.command("inspect", cls=Command)
@_sets
@click.option("--key", help="Show one sample: lasot-train-000000123.")
@click.option("--number", type=click.IntRange(1, 120), default=12, show_default=True, help="Samples a sheet.")
@click.option("--seed", type=int, default=0, show_default=True, help="Picks other samples.")
@click.option("--out", type=_FILE, help="The PNG to write.  [default: inspect.png, or <key>.png]")
def inspect_command(
    shards: Location, datasets: str | None, key: str | None, number: int, seed: int, out: Path | None
) -> None:
    """Draw samples of SHARDS (data/shards) as they are stored, with their boxes, as a PNG.

    With --key, print all that one sample says, and where it lies. Exit status 2 when there is nothing to show.
    """
    manifests = load_sets(shards, datasets)
    check_can_write(path := out or Path(f"{key or 'inspect'}.png"))
    if key is not None:
        found = find_sample(manifests, key)
        draw_sheet([found], path, zoom=4)
        _print_sample(found)
    else:
        picked = pick_samples(manifests, number, seed)
        if not picked:
            raise UserError(f"{shards}: the shards hold no pairs; nothing to show")
        draw_sheet(picked, path)
        say(f"{len(picked)} of {sum(m.rows for m in manifests):,} pairs, as stored")
    say(f"picture: {path}")


def _print_sample(found: Found) -> None:
    sample, roles = found.sample, image_roles(found.sample.shape)
    offset, length, raw_length = (int(found.entry[name]) for name in ("offset", "length", "raw_length"))
    for name, text in {
        "key": sample.key,
        "shard": found.shard,
        "row": f"{found.row}, {length:,} bytes from byte {offset:,}; {raw_length:,} as tar",
        "data set": f"{sample.dataset}, split {sample.split}, sample version {VERSION}",
        "sequence": f"{sample.sequence}, track {sample.track}",
        "drawn": frames_of(sample),
    }.items():
        say(f"{name:<10}{text}")
    table = plain_table(("", *roles))
    facts = [_facts(image) for image in sample.images]
    for name in facts[0]:
        table.add_row(name, *(each[name] for each in facts))
    OUT.print(table)


def _facts(image: StoredImage) -> dict[str, str]:
    x1, y1, x2, y2 = image.box
    left, top, right, bottom = *image.origin, *image.window
    scales = image.size[0] / (right - left), image.size[1] / (bottom - top)
    return {
        "frame, from 0": str(image.frame),
        "box: left, top": f"{x1:g}, {y1:g}",
        "box: right, bottom": f"{x2:g}, {y2:g}",
        "box: size": f"{x2 - x1:.6g} x {y2 - y1:.6g}",
        "frame size": f"{image.frame_size[0]} x {image.frame_size[1]}",
        "frame mean, RGB": ", ".join(f"{value:g}" for value in image.mean),
        "window: left, top": f"{left}, {top}",
        "window: right, bottom": f"{right}, {bottom} ({right - left} x {bottom - top})",
        "stored size": f"{image.size[0]} x {image.size[1]}",
        "stored / frame pixels": f"{scales[0]:.3f}, {scales[1]:.3f}",
        "object side as stored": f"{object_side(image):.1f}",
        "JPEG": f"{len(image.jpeg) / 1e3:,.1f} KB",
    }
