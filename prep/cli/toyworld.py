"""``lorat-prep toyworld``: small raw trees with exact boxes."""

from pathlib import Path

import click

from lorat.prep.commandline import Command, options_of
from lorat.prep.toy.write import ToyWorldConfig, write_toyworld
from lorat.shards.base.console import OUT, progress_bar
from lorat.shards.base.machine import usable_cores


@click.command("toyworld", cls=Command)
@click.argument("raw", type=click.Path(path_type=Path), default=Path("data/raw"))
@options_of(ToyWorldConfig, "config")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
def toyworld_command(raw: Path, workers: int | None, config: ToyWorldConfig) -> None:
    """Write small raw trees in the real layouts, with exact boxes, under RAW (data/raw).

    The same seed and numbers give the same bytes. A finished toy world is left as it is.
    """
    with progress_bar("toy world") as update:
        write_toyworld(raw, config, update, workers or usable_cores())
    OUT.print(f"toy world in {raw}", highlight=False, soft_wrap=True)
