"""From a request to a training that can start; what is missing or does not fit is a `UserError`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from lorat.configs.schema import DataConfig, RecipeConfig, VariantConfig
from lorat.shards.base.console import say
from lorat.shards.base.disk import check_can_write
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import Location, children, file_digest, file_size, is_remote
from lorat.shards.cache.cache import CacheOptions
from lorat.shards.manifest import MANIFEST, Manifest, load_manifest
from lorat.shards.writer import index_path
from lorat.train.checkpoint.checkpoints import checkpoints_of
from lorat.train.checkpoint.record import CONFIG, Made, RunRecord, fixed_settings, read_record, write_record
from lorat.train.data.handover import check_shared_memory
from lorat.train.data.places import CropSpec, Source, check_room
from lorat.train.data.stored import check_images, enlarged, suiting, wanted_serve
from lorat.train.distributed.world import World, agreed, texts_of_ranks
from lorat.train.loop import Training
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.deploy.devices import pick_dtype
from lorat.train.network.deploy.processor import settle_threads
from lorat.train.network.trained import load_weights
from lorat.train.network.variants import build_network, empty_network, freeze_blocks
from lorat.train.options import StartOptions

_LOG = logging.getLogger("lorat")
_OWN = {"data.workers", "data.prefetch"}  # keys of a recipe that may differ from rank to rank: machines do


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The command line, read."""

    variant: VariantConfig
    recipe: RecipeConfig
    shards: Location
    cache: CacheOptions | None = None
    skip_damaged: bool = False
    run: Path
    weights: tuple[Path, ...] = ()
    start: StartOptions = field(default_factory=StartOptions)
    repeats: RunRecord | None = None  # the record of the run that is done again, if one is

    def goes_on(self) -> bool:
        """Return whether a checkpoint is there that the run goes on from, and not from the weights."""
        return self.start.resume is not None and bool(checkpoints_of(self.run))


def find_shards(request: Request) -> tuple[Manifest, ...]:
    """Read the manifests of a recipe; see that their shards are there, and those asked for."""
    recipe, shards, weights = request.recipe, request.shards, request.recipe.data.datasets
    length, whole, rarest = recipe.train.pairs_per_epoch, sum(weights.values()), min(weights, key=weights.__getitem__)
    if weights[rarest] * length < whole:
        raise UserError(
            f"train.pairs_per_epoch ({length}) is too short for data.datasets: {rarest} with a weight of "
            f"{weights[rarest]} in {whole} gets less than one pair an epoch; change one with --set"
        )
    if missing := [name for name in weights if file_size(shards / name / MANIFEST) is None]:
        raise UserError(
            f"{shards}: no shards of {', '.join(missing)}; build them with lorat-prep build --datasets "
            f"{','.join(missing)}, or give --shards or another --recipe"
        )
    manifests = tuple(load_manifest(shards / name) for name in weights)
    for manifest in manifests:
        check_images(manifest, request.variant)
        _check_files(manifest, request)
        there = manifest.fingerprint()
        wanted = request.repeats.data.get(manifest.name, there) if request.repeats else there
        if wanted != there:
            raise UserError(
                f"{manifest.folder}: holds other shards ({there}) than the run to repeat was trained on ({wanted}); "
                "name those with --shards"
            )
    if request.cache is not None:
        check_can_write(request.cache.folder)
        check_room(manifests, recipe.data.window_shards, request.cache)
    return manifests


def _check_files(manifest: Manifest, request: Request) -> None:
    """See that every shard and its index are there, and are not cut where that is cheap to tell. A cut shard is one
    that has damaged samples, so with ``--on-bad-sample skip`` it is read.
    """
    there = {place.name for place in children(manifest.folder)}
    for receipt in manifest.shards:
        shard = manifest.folder / receipt.shard
        absent = [place for place in (shard, index_path(shard)) if place.name not in there]
        measured = not (absent or is_remote(shard) or request.skip_damaged)
        if absent or (measured and file_size(shard) != receipt.bytes):
            what = f"{(*absent, shard)[0]}: missing, or not as long as its manifest says"
            raise UserError(f"{what}; run lorat-prep build --datasets {manifest.name} again")


def settle_compute(request: Request, world: World) -> Request:
    """Give this process its threads, and return the request with the number type that all ranks take: the one that is
    named, or that the run began with, or what rank 0 picks. Every rank has to call this.
    """
    train, record = request.recipe.train, request.run / CONFIG

    def pick() -> str:
        network, name = empty_network(request.variant), train.dtype
        if world.device.type == "cpu":
            settle_threads(network, train.batch_size // (world.size * train.accumulate))
        if name == "auto" and not world.speaks:
            return name
        if name == "auto" and request.goes_on() and record.is_file():
            name = read_record(record).recipe.train.dtype
        return str(pick_dtype(name, world.device, network, training=True)).removeprefix("torch.")

    own = agreed(pick, world)
    first = texts_of_ranks([own], world)[0]
    chosen = train.model_copy(update={"dtype": first if train.dtype == "auto" else own})
    return replace(request, recipe=request.recipe.model_copy(update={"train": chosen}))


def prepare(request: Request, manifests: tuple[Manifest, ...], world: World) -> tuple[Training, OneStream]:
    """Build the network and give it the weights to start from, after `settle_compute`; nothing is written."""
    variant, recipe, start, run = request.variant, request.recipe, request.start, request.run
    _check_division(recipe, world)
    if world.speaks and run.is_file():
        raise UserError(f"{run}: is a file; name a folder with --run")
    if world.speaks:
        check_can_write(run)
    if world.speaks and run.exists() and any(run.iterdir()) and not start.resume:
        raise UserError(f"{run}: exists; go on with --resume auto, or name another folder with --run")
    torch.manual_seed(recipe.train.seed)
    dtype = getattr(torch, recipe.train.dtype)
    # DeepSpeed wants all parameters in float32.
    frozen = torch.float32 if recipe.train.parallel == "deepspeed" and world.size > 1 else dtype
    network = build_network(variant, backbone=start.backbone, dtype_frozen=frozen)
    freeze_blocks(network, recipe.train.frozen_blocks)
    if variant.second_phase and not (request.weights or request.goes_on()):
        what = "goes on from LoRATv2's first phase; name its weights (a run's checkpoints/…/model.safetensors)"
        raise UserError(f"variant {variant.name}: {what} with --weights")
    if request.weights and not request.goes_on():
        *before, last = request.weights
        layout, force = variant.backbone.layout, start.force_backbone
        load_weights(last, network, before=before, layout=layout, force_backbone=force)
    if request.repeats is not None:
        _check_repetition(request, request.repeats, network, world)
    source = Source(
        manifests=manifests,
        weights=tuple(recipe.data.datasets.values()),
        spec=CropSpec.of(variant, network.template_grid, network.search_grid),
        augment=recipe.augment,
        **recipe.train.model_dump(include={"seed", "batch_size", "pairs_per_epoch", "epochs"}),
        **recipe.data.model_dump(include={"window_shards", "negatives", "negatives_from", "max_gap", "causal"}),
        skip_damaged=request.skip_damaged,
        cache=request.cache,
    )
    validation = validation_source(recipe.data, source, request.shards, world)
    if validation is not None:
        check_images(validation.manifests[0], variant)
        _check_files(validation.manifests[0], request)
    check_shared_memory(source, recipe.data, world.size, validates=validation is not None)
    return Training(run, variant, recipe, source, dtype, world, validation=validation, start=start), network


def validation_source(data: DataConfig, training: Source, shards: Location, world: World) -> Source | None:
    """Return where validation pairs come from, jittered as in training but neither flipped nor changed in colour. None
    where there are to be none, or no shards.
    """
    name = data.validation
    missing = name and file_size(shards / name / MANIFEST) is None
    if missing and world.speaks:
        remedy = f"build them with lorat-prep build --datasets {name}, or set data.validation="
        _LOG.warning("%s: no shards, so there is no validation; %s", shards / name, remedy)
    if missing or not name:
        return None
    pairs = -(-data.validation_pairs // training.batch_size) * training.batch_size
    only: dict[str, Any] = {"manifests": (load_manifest(shards / name),), "weights": (1,), "negatives": 0.0}
    only |= {"max_gap": None, "causal": False}
    return replace(training, augment=training.augment.windows_only(), pairs_per_epoch=pairs, epochs=1, **only)


def _check_division(recipe: RecipeConfig, world: World) -> None:
    batch, parts = recipe.train.batch_size, world.size * recipe.train.accumulate
    if batch % parts == 0:
        return
    pairs = recipe.train.pairs_per_epoch
    sizes = [size for size in range(parts, pairs + 1, parts) if pairs % size == 0]
    near = [s for s in sizes if s < batch][-1:] + [s for s in sizes if s > batch][:1]
    those = " or ".join(f"train.batch_size={size}" for size in near)
    remedy = f"--set {those}" if near else "another number of processes, or train.accumulate"
    raise UserError(
        f"train.batch_size ({batch}) must be a multiple of {world.size} processes times train.accumulate "
        f"({recipe.train.accumulate}); take {remedy}"
    )


def _check_repetition(request: Request, repeated: RunRecord, network: OneStream, world: World) -> None:
    """See that backbone and first weights are those of the run that is repeated."""
    wanted, found = repeated.backbone_fingerprint, network.fingerprint
    if wanted not in (None, found) and not request.start.force_backbone:
        what = f"the run to repeat had another backbone (fingerprint {wanted or 'none'}, not {found or 'none'})"
        raise UserError(f"--config: {what}; give that one with --backbone, or --force-backbone")
    starts = () if request.goes_on() else request.weights
    for first, digest in zip_longest(starts, repeated.weights_sha256[: len(starts)]):
        if file_digest(first, "restore it") != digest:
            what = f"{first}: not the file that the run to repeat started from (its SHA-256 was {digest})"
            raise UserError(f"{what}; restore it")
    if world.speaks and repeated.made and repeated.made.processes != world.size:
        had = f"the run to repeat had {repeated.made.processes} processes, this one has {world.size}"
        _LOG.warning("%s: same batches, but weights are equal within rounding only", had)


def common_settings(training: Training, backbone: str, test_sets: Sequence[str]) -> dict[str, Any]:
    """Return key → JSON value of what ranks, backbones by their fingerprint, have in common."""
    source, validation = training.source, training.validation
    return {
        **fixed_settings(training.variant, training.recipe, source.manifests, _OWN),
        "shards for validation": validation and validation.manifests[0].fingerprint(),
        "test sets": ", ".join(test_sets),
        "backbone": backbone,
        "number type": str(training.dtype),
        "--resume": training.start.resume,
        "--on-bad-sample skip": source.skip_damaged,
    }


def note_run(request: Request, training: Training, network: OneStream) -> None:
    """Write everything that decides the weights as the run's record, on rank 0. A run that goes on from a checkpoint
    keeps its own; what differs is refused by the checkpoint.
    """
    path, world = request.run / CONFIG, training.world
    if not world.speaks or (request.goes_on() and path.is_file()):
        return
    recipe, weights = request.recipe, request.weights
    train = recipe.train.model_copy(update={"dtype": training.number_type})
    record = RunRecord(
        variant=request.variant,
        recipe=recipe.model_copy(update={"train": train}),
        shards=str(request.shards),
        data={manifest.name: manifest.fingerprint() for manifest in training.source.manifests},
        on_bad_sample="skip" if request.skip_damaged else "stop",
        backbone_fingerprint=network.fingerprint,
        weights=tuple(map(str, weights)),
        weights_sha256=tuple(file_digest(path, "name a whole file") for path in weights),
        made=Made(lorat=version("lorat"), torch=version("torch"), processes=world.size, device=world.device.type),
    )
    write_record(path, record)


def introduce(training: Training, network: OneStream) -> None:
    """Print what is about to be trained, on what."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    every = sum(p.numel() for p in network.parameters())
    source, world, threads = training.source, training.world, torch.get_num_threads()
    own = f" of {threads} thread{'s' * (threads > 1)}" * (world.device.type == "cpu")
    say(
        f"{training.variant.name}: {trained:,} of {every:,} parameters trained; {source.epochs} epochs of "
        f"{source.pairs_per_epoch:,} pairs, batch {source.batch_size}, {training.number_type} on {world.size} x "
        f"{world.device}{own}"
    )
    for manifest, weight in zip(source.manifests, source.weights, strict=True):
        draws = round(source.epochs * source.pairs_per_epoch * weight / sum(source.weights))
        often = f"{draws:,} of them drawn"
        if draws >= manifest.rows:
            often = f"each drawn {draws / manifest.rows:.1f} times"
        say(f"  {manifest.name}: {manifest.rows:,} pairs, {often}")
    for manifest in source.manifests:
        if (suit := suiting(manifest, source)) < 1.0:
            text = "%s: about one sample in %.0f suits data.max_gap and data.causal, and others are read in vain; %s"
            _LOG.warning(text, manifest.name, 1 / suit, "lorat-prep build takes --max-gap and --causal")
        if (share := enlarged(manifest, source)) is not None:
            size, serve = source.spec.search_size, wanted_serve(source.spec)
            text = "%s: built for smaller crops: of %d pixels, about %.0f %% of draws enlarge what is stored; %s %d"
            _LOG.warning(text, manifest.name, size, 100 * share, "lorat-prep build --serve", serve)
