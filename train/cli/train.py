"""``lorat-train``: the command line is read here, and nothing else; heavy packages are imported once it is."""

import logging
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from lorat.configs.load import load_plan
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import option, parse_bytes
from lorat.shards.base.process import wait_briefly
from lorat.shards.base.signals import Heard, grace, obey_in_time, signal_name
from lorat.shards.base.storage import Location, StoreOptions, locate
from lorat.shards.cache.cache import CacheOptions
from lorat.shards.pixels.jpeg import codec_name
from lorat.train.options import StartOptions

if TYPE_CHECKING:
    from lorat.configs.schema import RecipeConfig, VariantConfig
    from lorat.train.setup import Request

_CACHE_SIZE, _SHARDS, _VARIANT = "50GB", "data/shards", "B-224"
_EVALUATION = "evaluation"  # the recipe that trains nothing
_DATA, _RUN, _INSTEAD = "Data", "The run", "Instead of training"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """What to do, as it was asked for; None where nothing was said."""

    variant: str | None = option(None, help="A name (S-224, g-378, toy) or YAML file.", shown=_VARIANT)
    recipe: tuple[str, ...] = option(
        (), help="A name or a YAML file; of several the later over the earlier.", shown="the variant's own, or standard"
    )
    config: Path | None = option(
        None, help="Repeat a run from its config.yaml, on its shards and weights.", kind="file"
    )
    overrides: tuple[str, ...] = option(
        (), help="Set a key of recipe or variant: train.lr, variant.lora.rank.", names=("--set",), metavar="KEY=VALUE"
    )
    weights: tuple[Path, ...] = option(
        (),
        help="Start from these weights, a checkpoint's or published ones; of LoRATv2's second phase as published, both "
        "phases' files, the first one's first.",
        kind="file",
    )
    shards: Location | None = option(
        None, help="Folder or URL (s3://bucket/shards) that lorat-prep build wrote.", shown=_SHARDS, section=_DATA
    )
    shard_cache: Path | None = option(
        None, help="Local folder that whole shards are copied into before they are read.", kind="folder", section=_DATA
    )
    shard_cache_size: str | None = option(
        None, help="Most that --shard-cache may hold.", metavar="SIZE", shown=_CACHE_SIZE, section=_DATA
    )
    on_bad_sample: Literal["stop", "skip"] | None = option(
        None, help="A damaged sample ends the training, or is reported and replaced.", shown="stop", section=_DATA
    )
    no_eval: bool = option(
        False, help="Track no test sets; else those whose tree is there, in between and at the end.", section=_DATA
    )
    run: Path | None = option(
        None,
        help="Folder of this run; write --run-dir under torchrun.",
        names=("--run", "--run-dir"),
        shown="runs/<variant>-<recipe>",
        section=_RUN,
    )
    profile: bool = option(
        False, help="Train nothing; say what a step and a frame cost. Needs no shards and no weights.", section=_INSTEAD
    )
    replay: Path | None = option(
        None,
        help="Train nothing; do a step again whose loss was not finite (runs/…/faults/step_…).",
        metavar="DUMP",
        exists=True,
        kind="folder",
        section=_INSTEAD,
    )


@click.command(cls=Command)
@options_of(TrainOptions, "options", "What is trained")
@options_of(StartOptions, "start", "The run")
@options_of(TreeOptions, "trees")
@options_of(StoreOptions, "store", "Data")
@click.version_option(package_name="lorat")
def main(options: TrainOptions, start: StartOptions, trees: TreeOptions, store: StoreOptions) -> None:
    """Train a tracker on shards, and track test sets with it.

    Exit status: 0 done; 1 trained, but test sets could not all be tracked; 2 an input is missing or does not fit.
    """
    start_logging()
    wait_briefly()
    store.use()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0":
        for handler in logging.getLogger("lorat").handlers:
            handler.setLevel(logging.ERROR)  # rank 0 has the same to say
    codec_name()  # says here, once, if the fast codec is missing
    if options.replay is not None:
        from lorat.train.replay import load_dump, print_replay, replay

        dump = load_dump(options.replay)
        print_replay(dump, replay(dump, start.device, start.backbone))
    elif options.profile:
        from lorat.train.profile.profile import Profile

        request = _request(options, start)
        Profile(request.variant, request.recipe, start.device).print()
    elif _EVALUATION in options.recipe:
        sys.exit(_evaluate(options, start, trees))
    else:
        sys.exit(_train(options, start, trees))


def _ending_in_time() -> AbstractContextManager[None]:
    """End this process where SIGTERM or Ctrl-C finds it deaf, before its steps and after them: nothing is lost."""

    def last(number: int) -> None:
        os.write(2, f"{signal_name(number)}: ended outside of training steps\n".encode())

    return obey_in_time(Heard(), last, grace())


def _train(options: TrainOptions, start: StartOptions, trees: TreeOptions) -> int:
    """Train and return the exit status; what ranks find by themselves, they agree on first."""
    from lorat.train.cli.results import Evaluator, check_stopping, find_test_sets
    from lorat.train.distributed.world import agreed, check_alike, join_world
    from lorat.train.logs.rank_log import rank_log
    from lorat.train.logs.result import read_best
    from lorat.train.loop import train
    from lorat.train.setup import common_settings, find_shards, introduce, note_run, prepare, settle_compute
    from lorat.train.step.faults import explain_memory

    with _ending_in_time(), join_world(start.device) as world:
        request = agreed(lambda: _request(options, start), world)
        manifests = agreed(lambda: find_shards(request), world)
        wanted = () if options.no_eval else request.recipe.train.evaluate
        names = agreed(lambda: find_test_sets(trees, wanted), world)
        request = settle_compute(request, world)
        training, network = agreed(lambda: prepare(request, manifests, world), world)
        agreed(lambda: check_stopping(training, names), world)
        check_alike(common_settings(training, network.fingerprint, names), world)
        agreed(lambda: note_run(request, training, network), world)
        if world.speaks and start.wandb != "off":
            from lorat.train.profile.figures import network_figures

            figures = network_figures(request.variant, world.device, training.dtype)
            training = replace(training, figures=figures)
        evaluator = Evaluator(names, trees, request, world) if names else None
        with nullcontext() if start.no_log_files else rank_log(request.run, world):
            if world.speaks:
                introduce(training, network)
            with explain_memory(request.recipe, request.variant, world):
                checkpoint = train(training, network, evaluator)
            if evaluator is not None:
                evaluator.publish()
            if world.speaks:
                say(f"weights: {checkpoint / 'model.safetensors'}")
                if best := read_best(request.run):
                    say(f"best:    {request.run / best.weights} ({best})")
                if (curves := request.run / "curves.png").is_file():
                    say(f"curves:  {curves}")
    return 1 if evaluator is not None and evaluator.failed else 0


def _evaluate(options: TrainOptions, start: StartOptions, trees: TreeOptions) -> int:
    """Do what lorat-eval does, with the weights that are named, or the run's newest."""
    from lorat.evaluate.cli.options import OutputOptions
    from lorat.evaluate.cli.track import TestSetOptions, track_and_publish
    from lorat.evaluate.segment.settings import MaskFileSettings
    from lorat.evaluate.track.settings import BatchSettings

    named = [name for name in options.recipe if name != _EVALUATION]
    variant, recipe = load_plan(options.variant or _VARIANT, named, options.overrides)
    plan = recipe.train
    settings = BatchSettings(
        run=None if options.weights else options.run or _run_folder(variant, recipe),
        weights=options.weights,
        variant=options.variant,
        backbone=start.backbone,
        force_backbone=start.force_backbone,
        device=start.device,
        dtype=plan.evaluate_dtype,
        batch=plan.evaluate_batch,
    )
    wanted = TestSetOptions(datasets=",".join(plan.evaluate) if plan.evaluate else None)
    return track_and_publish(settings, trees, wanted, MaskFileSettings(), OutputOptions())


def _run_folder(variant: "VariantConfig", recipe: "RecipeConfig") -> Path:
    return Path("runs") / f"{variant.name}-{recipe.name}"


def _request(options: TrainOptions, start: StartOptions) -> "Request":
    from lorat.train.checkpoint.record import read_record
    from lorat.train.setup import Request

    record, folder, size = None, options.shard_cache, options.shard_cache_size
    if size is not None and folder is None:
        raise UserError("--shard-cache-size: no cache is used; name its folder with --shard-cache")
    if options.config is None:
        variant, recipe = load_plan(options.variant or _VARIANT, options.recipe, options.overrides)
        shards, weights, bad = _SHARDS, options.weights, options.on_bad_sample
    else:
        for name in ("variant", "recipe", "weights", "on_bad_sample"):
            if getattr(options, name):
                raise UserError(f"--{name.replace('_', '-')}: stands in {options.config}; leave it or --config out")
        record = read_record(options.config, options.overrides)
        variant, recipe, shards, bad = record.variant, record.recipe, record.shards, record.on_bad_sample
        weights = tuple(map(Path, record.weights))
    return Request(
        variant=variant,
        recipe=recipe,
        shards=options.shards or locate(shards),
        cache=CacheOptions(folder.expanduser(), parse_bytes(size or _CACHE_SIZE)) if folder else None,
        skip_damaged=bad == "skip",
        run=options.run or _run_folder(variant, recipe),
        weights=weights,
        repeats=record,
        start=replace(start, resume="auto") if recipe.train.resume else start,
    )
