"""``lorat-prep inspect``: pictures and facts of stored samples."""

from __future__ import annotations

from pathlib import Path

import click

from lorat.prep.browse.samples import Found, draw_sample, draw_sheet, find_sample, pick_samples
from lorat.prep.browse.sets import load_sets
from lorat.prep.browse.stats import object_side
from lorat.prep.commandline import Command, LocationType
from lorat.shards.base.console import OUT, plain_table, say
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import Location
from lorat.shards.sample import VERSION, StoredImage


@click.command("inspect", cls=Command)
@click.argument("shards", type=LocationType(), default=Path("data/shards"))
@click.option("--datasets", help="Shard sets, such as lasot-train,coco.  [default: all]")
@click.option("--key", help="Show one sample: lasot-train-000000123.")
@click.option(
    "--number", type=click.IntRange(1, 120), default=12, show_default=True, help="Samples a sheet."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Picks other samples.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The PNG to write.  [default: inspect.png, or <key>.png]",
)
def inspect_command(
    shards: Location,
    datasets: str | None,
    key: str | None,
    number: int,
    seed: int,
    out: Path | None,
) -> None:
    """Draw samples of SHARDS (data/shards) as they are stored, with their boxes, as a PNG.

    With --key, print all that one sample says, and where it lies. Exit status 2 when there is
    nothing to show.
    """
    manifests = load_sets(shards, datasets)
    path = out or Path(f"{key or 'inspect'}.png")
    if key is not None:
        found = find_sample(manifests, key)
        draw_sample(found, path)
        _print_sample(found)
    else:
        picked = pick_samples(manifests, number, seed)
        if not picked:
            raise UserError(f"{shards}: the shards hold no pairs; nothing to show")
        draw_sheet(picked, path)
        say(f"{len(picked)} of {sum(m.rows for m in manifests):,} pairs, as stored")
    say(f"picture: {path}")


def _print_sample(found: Found) -> None:
    sample = found.sample
    search, template = sample.search, sample.template
    for name, text in {
        "key": sample.key,
        "shard": found.shard,
        "row": f"{found.row}, {found.length:,} bytes from byte {found.offset:,}; "
        f"{found.raw_length:,} as tar",
        "data set": f"{sample.dataset}, split {sample.split}, sample version {VERSION}",
        "sequence": f"{sample.sequence}, track {sample.track}",
        "gap": f"{search.frame - template.frame:+d} frames from template to search",
    }.items():
        say(f"{name:<10}{text}")
    table = plain_table(("", "template", "search"))
    searched = _facts(search)
    for name, text in _facts(template).items():
        table.add_row(name, text, searched[name])
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
        "object side as stored": f"{object_side(image, stored=True):.1f}",
        "JPEG": f"{len(image.jpeg) / 1e3:,.1f} KB",
    }
