"""Losses on pairs that nothing is trained on, as the training goes on.

Promise: the same pairs every time, on any number of ranks, and the training is none the wiser: its
batches, its random draws and its weights are those of a run without validation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import torch

from lorat.configs.schema import AugmentConfig, DataConfig
from lorat.shards.base.storage import Location, file_size
from lorat.shards.manifest import MANIFEST, load_manifest
from lorat.train.data.batches import make_loader
from lorat.train.data.places import Source
from lorat.train.distributed.world import World, mean_over_ranks, texts_of_ranks
from lorat.train.step.step import Engine

_LOG = logging.getLogger("lorat")


def validation_source(
    data: DataConfig, training: Source, shards: Location, world: World
) -> Source | None:
    """Return where validation pairs come from; None where there are to be none, or no shards.

    The pairs are jittered as in training, but neither flipped nor changed in colour.

    Args:
        data: names the shard set.
        training: batch size, seed, crops and jitter are taken from it.
        shards: the folder of all shard sets.
        world: this process; one of them says that shards are missing.
    """
    if not data.validation:
        return None
    folder = shards / data.validation
    if file_size(folder / MANIFEST) is None:
        if world.speaks:
            _LOG.warning(
                "%s: no shards, so there is no validation; build them with lorat-prep build "
                "--datasets %s, or set data.validation=",
                folder,
                data.validation,
            )
        return None
    augment = AugmentConfig(
        scale_jitter=training.augment.scale_jitter,
        translation_jitter=training.augment.translation_jitter,
        flip=0.0,
        colour_jitter=0.0,
        grey_solarise_blur=False,
    )
    batches = -(-data.validation_pairs // training.batch_size)
    return replace(
        training,
        manifests=(load_manifest(folder),),
        weights=(1,),
        augment=augment,
        pairs_per_epoch=batches * training.batch_size,
        epochs=1,
        negatives=0.0,
    )


def validate(
    engine: Engine,
    source: Source,
    data: DataConfig,
    accumulate: int,
    asked_to_end: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Return ``val_loss``, ``val_score`` and ``val_box``; every rank has to call this.

    They are sums over all pairs and ranks, divided by the positive cells of all: those of one
    batch of all pairs, whatever the size of a batch.

    Args:
        engine: its network computes in eval mode, not compiled, and is in training mode afterwards.
        source: of `validation_source`.
        data: says how many processes load.
        accumulate: parts that each batch is computed in.
        asked_to_end: looked at before every batch; all ranks get the same answer. If it is yes,
            nothing is returned.

    Raises:
        UserError: if a shard is damaged.
    """
    world, damaged = engine.world, list[str]()
    one, sums = torch.ones((), device=world.device), torch.zeros(3, device=world.device)
    batches = make_loader(
        source, 0, world.rank, world.size, data.workers, data.prefetch, pin=world.pins
    )
    with closing(batches), engine.evaluating() as compute:
        for batch in batches:
            if asked_to_end():
                return {}
            damaged += [message for messages in batch.damaged for message in messages]
            for part in batch.to(world.device).split(accumulate):
                losses = compute(*part.inputs, one)
                positives = part.positive.sum(dtype=torch.float32)
                sums += torch.stack([losses.score, losses.box, positives])
    score, box, positives = mean_over_ranks(sums, world).tolist()
    damaged = texts_of_ranks(damaged, world)
    if damaged and world.speaks:
        _LOG.warning(
            "%d damaged samples were replaced by others in the validation, first: %s",
            len(damaged),
            damaged[0],
        )
    score, box = score / positives, box / positives
    values = {"val_loss": score + box, "val_score": score, "val_box": box}
    return {name: round(value, 5) for name, value in values.items()}
