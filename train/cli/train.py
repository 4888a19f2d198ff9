"""``lorat-train``: shards to a trained tracker, on one process or under torchrun.

lorat-train --variant B-224
torchrun --nproc-per-node 8 -m lorat.train.cli --variant L-224

The command line is read here, and nothing else; the heavy packages are imported once it is.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorat.configs.load import load_recipe, load_variant
from lorat.evaluate.track.settings import BatchSettings
from lorat.prep.commandline import Command, LocationType, group_settings
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import parse_bytes
from lorat.shards.base.storage import Location, locate
from lorat.shards.cache.cache import CacheOptions
from lorat.shards.pixels.jpeg import codec_name
from lorat.train.cli.results import Evaluator, evaluation_options, find_trees

if TYPE_CHECKING:
    from lorat.train.checkpoint.record import RunRecord
    from lorat.train.setup import Request

__all__ = ["main"]

_CACHE_SIZE = "50GB"
_SHARDS = "data/shards"
_VARIANT = "B-224"
_IN_RECORD = ("variant", "recipe", "weights", "on_bad_sample")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line, as click parsed it."""

    config: Path | None
    variant: str | None
    recipe: str | None
    shards: Location | None
    shard_cache: Path | None
    shard_cache_size: str | None
    on_bad_sample: str | None
    run: Path | None
    resume: str | None
    overrides: tuple[str, ...]
    backbone: Path | None
    weights: Path | None
    force_backbone: bool
    device: str
    trees: TreeOptions
    no_eval: bool
    wandb: str
    profile: bool
    replay: Path | None


@click.command(cls=Command, context_settings=group_settings)
@click.version_option(package_name="lorat")
@click.option("--variant", help=f"A name (S-224, g-378, toy) or YAML file.  [default: {_VARIANT}]")
@click.option("--recipe", help="A name or a YAML file.  [default: the variant's own, or standard]")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Repeat a run from its config.yaml: variant, recipe, shards and first weights.",
)
@click.option(
    "--shards",
    type=LocationType(),
    help=f"Folder or URL (s3://bucket/shards) that lorat-prep build wrote.  [default: {_SHARDS}]",
)
@click.option(
    "--shard-cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Local folder that whole shards are copied into before they are read.",
)
@click.option(
    "--shard-cache-size",
    metavar="SIZE",
    help=f"Most that --shard-cache may hold.  [default: {_CACHE_SIZE}]",
)
@click.option(
    "--on-bad-sample",
    type=click.Choice(["stop", "skip"]),
    help="What a damaged sample does: ends the training, or is reported and another one taken.  "
    "[default: stop]",
)
@click.option(
    "--run",
    "--run-dir",
    "run",
    type=click.Path(path_type=Path),
    help="Folder of this run; write --run-dir under torchrun.  [default: runs/<variant>-<recipe>]",
)
@click.option(
    "--resume", type=click.Choice(["auto"]), help="Go on from the newest checkpoint, if any."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the recipe, such as train.lr, or of the variant (variant.lora.rank).",
)
@click.option(
    "--backbone",
    type=click.Path(path_type=Path),
    help="Pretrained weights.  [default: $LORAT_BACKBONES, then timm's hub]",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Start from these trained weights: a checkpoint's or a published file.",
)
@click.option(
    "--force-backbone",
    is_flag=True,
    help="Start or go on from weights that were trained on another backbone.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option(
    "--wandb",
    type=click.Choice(["online", "offline", "off"]),
    default="off",
    show_default=True,
    help="Log to wandb.ai too, or to files for wandb sync; online without a key is offline.",
)
@click.option(
    "--profile",
    is_flag=True,
    help="Train nothing; say what a step and a frame cost. Needs no shards and no weights.",
)
@click.option(
    "--replay",
    metavar="DUMP",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Train nothing; do a step again whose loss was not finite (runs/…/faults/step_…).",
)
@evaluation_options
def main(**values: Any) -> None:
    """Train a tracker on shards, and track test sets with it.

    Exit status: 0 done; 1 trained, but test sets could not all be tracked; 2 an input is missing or
    does not fit.
    """
    start_logging()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0":
        logging.getLogger("lorat").setLevel(logging.ERROR)  # rank 0 has the same to say
    codec_name()  # says here, once, if the fast codec is missing
    sys.exit(_run(Options(**values)))


def _run(options: Options) -> int:
    """Do what is asked for and return the exit status."""
    if options.replay is not None:
        from lorat.train.replay import load_dump, print_replay, replay

        dump = load_dump(options.replay)
        print_replay(dump, replay(dump, options.device, options.backbone))
        return 0
    if options.profile:
        from lorat.train.profile.profile import profile_variant
        from lorat.train.profile.tables import print_profile

        request = _request(options)
        print_profile(profile_variant(request.variant, request.recipe, options.device))
        return 0
    return _train(options)


def _train(options: Options) -> int:
    """Train and return the exit status; what ranks find by themselves, they agree on first."""
    from lorat.train.agreement import agreed, check_alike, common_settings
    from lorat.train.distributed.world import join_world
    from lorat.train.logs.result import describe, read_best
    from lorat.train.loop import train
    from lorat.train.setup import find_shards, introduce, note_run, prepare
    from lorat.train.step.faults import explain_memory

    with join_world(options.device) as world:
        request = agreed(lambda: _request(options), world)
        manifests = agreed(lambda: find_shards(request), world)
        trees = agreed(lambda: find_trees(options.trees, options.no_eval), world)
        training, network = agreed(lambda: prepare(request, manifests, world), world)
        test_sets = trees.names if trees else ()
        check_alike(common_settings(training, network.fingerprint, test_sets), world)
        agreed(lambda: note_run(request, training, network, world), world)
        evaluator = None
        if trees is not None:
            batch = request.recipe.train.evaluate_batch
            tracker = BatchSettings(
                backbone=request.backbone, force_backbone=request.force_backbone, batch=batch
            )
            evaluator = Evaluator(trees, tracker, request.recipe.train.epochs, world)
        if world.speaks:
            introduce(training, network, world)
        with explain_memory(request.recipe, request.variant, world):
            checkpoint = train(training, network, world, evaluator)
        if evaluator is not None:
            evaluator.publish()
        if world.speaks:
            say(f"weights: {checkpoint / 'model.safetensors'}")
            if best := read_best(request.run):
                say(f"best:    {request.run / best['weights']} ({describe(best)})")
            if (curves := request.run / "curves.png").is_file():
                say(f"curves:  {curves}")
    return 1 if evaluator is not None and evaluator.failed else 0


def _request(options: Options) -> Request:
    from lorat.train.setup import Reading, Request

    record = _record(options)
    if record is None:
        of_variant, of_recipe = _overrides(options.overrides)
        variant = load_variant(options.variant or _VARIANT, of_variant)
        recipe = load_recipe(options.recipe or variant.recipe, of_recipe)
        shards, weights = options.shards or locate(_SHARDS), options.weights
        bad = options.on_bad_sample
    else:
        variant, recipe, bad = record.variant, record.recipe, record.on_bad_sample
        shards = options.shards or locate(record.shards)
        weights = Path(record.weights) if record.weights else None
    cache = _cache_options(options.shard_cache, options.shard_cache_size)
    return Request(
        variant=variant,
        recipe=recipe,
        reading=Reading(shards, cache, bad == "skip"),
        run=options.run or Path("runs") / f"{variant.name}-{recipe.name}",
        resume=options.resume is not None,
        backbone=options.backbone,
        weights=weights,
        force_backbone=options.force_backbone,
        repeats=record,
        wandb=options.wandb,
    )


def _record(options: Options) -> RunRecord | None:
    """Return the record that --config names, changed as --set says."""
    if options.config is None:
        return None
    from lorat.train.checkpoint.record import read_record

    for name in _IN_RECORD:
        if getattr(options, name) is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: stands in {options.config}; leave it or --config out")
    return read_record(options.config, options.overrides)


def _overrides(texts: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return what --set changes of the variant, and of the recipe."""
    start = "variant."
    of_variant = [text.removeprefix(start) for text in texts if text.startswith(start)]
    return of_variant, [text for text in texts if not text.startswith(start)]


def _cache_options(folder: Path | None, size: str | None) -> CacheOptions | None:
    if folder is not None:
        return CacheOptions(folder.expanduser(), parse_bytes(size or _CACHE_SIZE))
    if size is not None:
        raise UserError("--shard-cache-size: no cache is used; name its folder with --shard-cache")
    return None


if __name__ == "__main__":
    main()
