"""``lorat-train``: shards to a trained tracker, on one process or under torchrun.

lorat-train --variant B-224
torchrun --nproc-per-node 8 -m lorat.train.cli --variant L-224
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import torch
import yaml

from lorat.configs.load import load_recipe, load_variant
from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.cache import CacheOptions
from lorat.shards.console import OUT, start_logging
from lorat.shards.errors import UserError
from lorat.shards.jpeg import codec_name
from lorat.shards.manifest import MANIFEST, Manifest, load_manifest
from lorat.shards.storage import (
    Location,
    LocationType,
    atomic_file,
    children,
    file_size,
    is_remote,
)
from lorat.shards.units import parse_bytes
from lorat.shards.writer import index_path
from lorat.train.ahead import check_room
from lorat.train.batches import Source
from lorat.train.devices import pick_dtype
from lorat.train.distributed import World, join_world
from lorat.train.labels import CropSpec
from lorat.train.loop import Training, train
from lorat.train.network.lorat import LoRAT
from lorat.train.network.variants import build_network

__all__ = ["main"]


@dataclass(frozen=True, slots=True)
class _Reading:
    """Where shards are read from and what is done about a damaged sample."""

    shards: Location
    cache: CacheOptions | None
    skip_damaged: bool


@dataclass(frozen=True, slots=True)
class _Request:
    """The command line, read."""

    variant: VariantConfig
    recipe: RecipeConfig
    reading: _Reading
    run: Path
    resume: bool
    backbone: Path | None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lorat")
@click.option(
    "--variant", default="B-224", show_default=True, help="A name (S-224, g-378, toy) or YAML file."
)
@click.option("--recipe", help="A name or a YAML file.  [default: the variant's own, or standard]")
@click.option(
    "--shards",
    type=LocationType(),
    default="data/shards",
    show_default=True,
    help="Folder or URL (s3://bucket/shards) that lorat-prep build wrote.",
)
@click.option(
    "--shard-cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Local folder that whole shards are copied into before they are read.",
)
@click.option(
    "--shard-cache-size",
    metavar="SIZE",
    default="50GB",
    show_default=True,
    help="Most that --shard-cache may hold.",
)
@click.option(
    "--on-bad-sample",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What a damaged sample does: ends the training, or is reported and another one taken.",
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
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe."
)
@click.option(
    "--backbone",
    type=click.Path(path_type=Path),
    help="Pretrained weights.  [default: $LORAT_BACKBONES, then timm's hub]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
def main(
    variant: str,
    recipe: str | None,
    shards: Location,
    shard_cache: Path | None,
    shard_cache_size: str,
    on_bad_sample: str,
    run: Path | None,
    resume: str | None,
    overrides: tuple[str, ...],
    backbone: Path | None,
    device: str,
) -> None:
    """Train a tracker on shards. Exit status 2 when an input is missing or does not fit."""
    start_logging()
    codec_name()  # says here, once, if the fast codec is missing
    chosen = load_variant(variant)
    plan = load_recipe(recipe or chosen.recipe, overrides)
    folder = run or Path("runs") / f"{chosen.name}-{plan.name}"
    cache = CacheOptions(shard_cache, parse_bytes(shard_cache_size)) if shard_cache else None
    reading = _Reading(shards, cache, on_bad_sample == "skip")
    request = _Request(chosen, plan, reading, folder, resume is not None, backbone)
    _check_weights(plan)
    manifests = _manifests(plan, reading)
    with join_world(device) as world:
        _check_division(plan, world)
        _prepare_folder(request, world)
        torch.manual_seed(plan.train.seed)
        dtype = pick_dtype(plan.train.dtype, world.device, training=True)
        network = build_network(chosen, backbone=backbone, dtype_frozen=dtype)
        training = _training(request, manifests, network, dtype)
        if world.speaks:
            _introduce(training, network, world)
        checkpoint = train(training, network, world)
        if world.speaks:
            _say(f"weights: {checkpoint / 'model.safetensors'}")
            _say(f"curves:  {folder / 'curves.png'}")


def _check_division(recipe: RecipeConfig, world: World) -> None:
    batch, parts = recipe.train.batch_size, world.size * recipe.train.accumulate
    if batch % parts:
        raise UserError(
            f"train.batch_size ({batch}) must be a multiple of {world.size} processes times "
            f"train.accumulate ({recipe.train.accumulate}); change one with --set"
        )


def _check_weights(recipe: RecipeConfig) -> None:
    weights, length = recipe.data.datasets, recipe.train.pairs_per_epoch
    rarest = min(weights, key=lambda name: weights[name])
    if weights[rarest] * length < sum(weights.values()):
        raise UserError(
            f"train.pairs_per_epoch ({length}) is too short for data.datasets: {rarest} with a "
            f"weight of {weights[rarest]} in {sum(weights.values())} gets less than one pair an "
            "epoch; change one with --set"
        )


def _manifests(recipe: RecipeConfig, reading: _Reading) -> tuple[Manifest, ...]:
    """Read the manifests of a recipe and see that their shards are there."""
    shards, names = reading.shards, list(recipe.data.datasets)
    missing = [name for name in names if file_size(shards / name / MANIFEST) is None]
    if missing:
        raise UserError(
            f"{shards}: no shards of {', '.join(missing)}; build them with lorat-prep build "
            f"--datasets {','.join(missing)}, or give --shards or another --recipe"
        )
    manifests = tuple(load_manifest(shards / name) for name in names)
    for manifest in manifests:
        _check_files(manifest, reading)
    if reading.cache is not None:
        check_room(manifests, recipe.data.window_shards, reading.cache)
    return manifests


def _check_files(manifest: Manifest, reading: _Reading) -> None:
    """See that every shard and its index are there, and are not cut where that is cheap to tell.

    A cut shard is one that has damaged samples, so with ``--on-bad-sample skip`` it is read.
    """
    there = {place.name for place in children(manifest.folder)}
    for receipt in manifest.shards:
        shard = manifest.folder / receipt.shard
        absent = [place for place in (shard, index_path(shard)) if place.name not in there]
        measured = not (absent or is_remote(shard) or reading.skip_damaged)
        if absent or (measured and file_size(shard) != receipt.bytes):
            raise UserError(
                f"{(*absent, shard)[0]}: missing, or not as long as its manifest says; run "
                f"lorat-prep build --datasets {manifest.name} again"
            )


def _prepare_folder(request: _Request, world: World) -> None:
    """Make the run folder and write the whole resolved configuration into it."""
    if not world.speaks:
        return
    if request.run.is_file():
        raise UserError(f"{request.run}: is a file; name a folder with --run")
    if request.run.exists() and any(request.run.iterdir()) and not request.resume:
        raise UserError(
            f"{request.run}: exists; go on with --resume auto, or name another folder with --run"
        )
    if (request.run / "config.yaml").is_file():
        return  # a resumed run keeps its record; what differs is refused by the checkpoint
    config = {
        "variant": request.variant.model_dump(mode="json"),
        "recipe": request.recipe.model_dump(mode="json"),
        "shards": str(request.reading.shards),
    }
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    with atomic_file(request.run / "config.yaml") as file:
        file.write(text.encode())


def _training(
    request: _Request, manifests: tuple[Manifest, ...], network: LoRAT, dtype: torch.dtype
) -> Training:
    variant, recipe = request.variant, request.recipe
    spec = CropSpec(
        variant.template_size,
        variant.search_size,
        network.template_grid,
        network.search_grid,
        variant.template_factor,
        variant.search_factor,
    )
    source = Source(
        manifests=manifests,
        weights=tuple(recipe.data.datasets.values()),
        spec=spec,
        augment=recipe.augment,
        seed=recipe.train.seed,
        batch_size=recipe.train.batch_size,
        pairs_per_epoch=recipe.train.pairs_per_epoch,
        epochs=recipe.train.epochs,
        window_shards=recipe.data.window_shards,
        skip_damaged=request.reading.skip_damaged,
        cache=request.reading.cache,
    )
    return Training(request.run, variant, recipe, source, dtype, request.resume)


def _introduce(training: Training, network: LoRAT, world: World) -> None:
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    every = sum(p.numel() for p in network.parameters())
    source = training.source
    number_type = str(training.dtype).removeprefix("torch.")
    _say(
        f"{training.variant.name}: {trained:,} of {every:,} parameters trained; "
        f"{source.epochs} epochs of {source.pairs_per_epoch:,} pairs, batch {source.batch_size}, "
        f"{number_type} on {world.size} x {world.device}"
    )
    for manifest, weight in zip(source.manifests, source.weights, strict=True):
        draws = source.epochs * source.pairs_per_epoch * weight / sum(source.weights)
        freshness = f"each drawn {draws / manifest.rows:.1f} times"
        _say(f"  {manifest.name}: {manifest.rows:,} pairs, {freshness}")


def _say(text: str) -> None:
    OUT.print(text, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
