"""Options that several commands of lorat-eval have in common."""

from __future__ import annotations

from typing import get_args

import click

from lorat.evaluate.measure.ope import ConventionName

convention_option = click.option(
    "--convention",
    type=click.Choice(get_args(ConventionName)),
    default="published",
    help="How LaSOT, LaSOT_Extension, TNL2K and VastTrack are scored: as the published numbers, or "
    "as their MATLAB toolkits do.",
)
"""Adds --convention."""
