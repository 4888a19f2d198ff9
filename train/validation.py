"""Losses on pairs that nothing is trained on, as the training goes on.

Promise: the same pairs every time, on any number of ranks, and the training is none the wiser: its
batches, its random draws and its weights are those of a run without validation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch

from lorat.configs.schema import AugmentConfig, DataConfig, TrainConfig
from lorat.shards.base.storage import Location, file_size
from lorat.shards.manifest import MANIFEST, load_manifest
from lorat.train.data.batches import Source, make_loader
from lorat.train.distributed.world import World, mean_over_ranks, texts_of_ranks
from lorat.train.logs.report import Reporter
from lorat.train.step.engine import Engine

__all__ = ["Validations", "validate", "validation_due", "validation_source"]

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


def validation_due(recipe: TrainConfig, done: int, steps_per_epoch: int) -> bool:
    """Return whether a validation is due after `done` steps: at the ends of epochs."""
    epoch, inside = divmod(done, steps_per_epoch)
    return inside == 0 and (epoch % recipe.validate_epochs == 0 or epoch == recipe.epochs)


@dataclass(frozen=True, slots=True)
class Validations:
    """Validates at the ends of epochs; every rank calls alike."""

    source: Source | None
    """Of `validation_source`; None where nothing is validated."""
    data: DataConfig
    recipe: TrainConfig
    steps_per_epoch: int
    engine: Engine
    reporter: Reporter
    asked_to_end: Callable[[], bool]
    """Whether a signal asked for the end, the same on all ranks."""

    def due(self, done: int) -> bool:
        """Return whether `after` is to be called after `done` steps."""
        due = validation_due(self.recipe, done, self.steps_per_epoch)
        return self.source is not None and due

    def after(self) -> dict[str, float]:
        """Return the losses; nothing where a signal asked for the end in the meantime."""
        assert self.source is not None
        values = validate(
            self.engine, self.source, self.data, self.recipe.accumulate, self.asked_to_end
        )
        self.reporter.meter.restart()
        return values

    def catch_up(self, first_step: int) -> None:
        """Do what a run that goes on after `first_step` steps was asked to end before.

        The log, which is rank 0's, says whether it was done.
        """
        if not first_step or not self.due(first_step):
            return
        log, world = self.reporter.log, self.engine.world
        done = log is not None and log.has(first_step, "val_loss")
        if texts_of_ranks(["done" if done else "missing"], world)[0] == "done":
            return
        values = self.after()
        if values and log is not None:
            log.add(first_step, values)


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
    world, objective = engine.world, engine.objective
    # Compiled, another mode would be another graph; sharded weights come by the module's hooks.
    compute: Any = objective if engine.is_sharded else objective.forward
    one, sums = torch.ones((), device=world.device), torch.zeros(3, device=world.device)
    damaged: list[str] = []
    batches = make_loader(
        source, 0, world.rank, world.size, data.workers, data.prefetch, pin=world.pins
    )
    objective.eval()
    try:
        with closing(batches), torch.no_grad():
            for batch in batches:
                if asked_to_end():
                    return {}
                damaged += [message for messages in batch.damaged for message in messages]
                for part in batch.to(world.device).split(accumulate):
                    images = part.template, part.search, part.template_mask
                    losses = compute(*images, part.positive, part.box, one)
                    positives = part.positive.sum(dtype=torch.float32)
                    sums += torch.stack([losses.score, losses.box, positives])
    finally:
        objective.train()
        engine.reshard()
    score, box, positives = mean_over_ranks(sums, world).tolist()
    _report(texts_of_ranks(damaged, world), world)
    score, box = score / positives, box / positives
    return {
        "val_loss": round(score + box, 5),
        "val_score": round(score, 5),
        "val_box": round(box, 5),
    }


def _report(damaged: list[str], world: World) -> None:
    if damaged and world.speaks:
        _LOG.warning(
            "%d damaged samples were replaced by others in the validation, first: %s",
            len(damaged),
            damaged[0],
        )
