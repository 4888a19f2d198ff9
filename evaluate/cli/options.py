"""Options that several commands of lorat-eval have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.track.crops import RESIZES

__all__ = ["convention_option", "tracker_options", "weights_options"]

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_WEIGHTS = (
    click.option(
        "--run",
        "--run-dir",
        "run",
        type=_FOLDER,
        help="A run folder, for its last checkpoint. Write --run-dir under torchrun.",
    ),
    click.option("--weights", type=_FILE, help="A weights file, instead of a run."),
    click.option(
        "--variant", help="Variant of weights that do not name theirs (B-224, a YAML file)."
    ),
    click.option("--backbone", type=_FILE, help="The pretrained backbone's file, if not found."),
    click.option(
        "--force-backbone",
        is_flag=True,
        help="Take another backbone than the weights were trained on.",
    ),
)
_TRACKER = (
    *_WEIGHTS,
    click.option("--device", default="auto", help="auto, cpu, cuda, cuda:<index> or mps."),
    click.option("--dtype", default="auto", help="auto, float32, bfloat16 or float16."),
    click.option(
        "--resize",
        type=click.Choice(RESIZES),
        default="published",
        help="How frames are shrunk into crops: not antialiased, as for the published numbers, or "
        "averaged over areas, as training on shards saw them.",
    ),
)

convention_option = click.option(
    "--convention",
    type=click.Choice(get_args(ConventionName)),
    default="published",
    help="How LaSOT, LaSOT_Extension, TNL2K and VastTrack are scored: as the published numbers, or "
    "as their MATLAB toolkits do.",
)
"""Adds --convention."""


def weights_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --run, --weights, --variant, --backbone and --force-backbone."""
    return _with(command, _WEIGHTS)


def tracker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what `weights_options` adds, and --device, --dtype and --resize."""
    return _with(command, _TRACKER)


def _with(
    command: Callable[..., Any], options: tuple[Callable[..., Any], ...]
) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
