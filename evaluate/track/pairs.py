"""How well a network finds objects in single search crops, which training cuts: a steadier measure than a sequence.

A tracked sequence is one draw: where the object is lost, all that follows counts as lost. Thousands of pairs, cut from
the shards of such sequences by the samplers of training, are as many draws, so networks that are nearly alike can be
told apart. Windows are shifted and scaled as in training, nothing is flipped or changed in colour; the box is that of
the cell with the highest score, without the penalty that favours a crop's middle, which knows nothing of such shifts.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorat.configs.schema import AugmentConfig
from lorat.evaluate.track.predictor import penalty_window, select_box
from lorat.evaluate.track.settings import PairSettings
from lorat.shards.manifest import Manifest
from lorat.train.data.batches import make_loader
from lorat.train.data.places import CropSpec, Source
from lorat.train.data.stored import check_images
from lorat.train.network.deploy.devices import pick_device, pick_dtype
from lorat.train.network.deploy.processor import settle_threads
from lorat.train.network.variants import hold_matrices_in
from lorat.train.step.loss import Objective, box_overlaps

_BATCH = 16


@dataclass(frozen=True, eq=False, slots=True)
class PairScores:
    """IoU of the boxes found in the search crops of a set, (N,)."""

    name: str
    overlaps: NDArray[np.float64]

    @property
    def values(self) -> dict[str, float]:
        """Fractions of 1: the mean overlap, and the shares above 0.5 and 0.75."""
        shares = {f"over_{at}": float((self.overlaps > at / 100).mean()) for at in (50, 75)}
        return {"mean_iou": float(self.overlaps.mean()), **shares}


def score_pairs(
    settings: PairSettings, manifests: tuple[Manifest, ...], progress: Callable[[int, int, str], None]
) -> Iterator[PairScores]:
    """Yield the scores of each set. `progress` gets the pairs done, of how many, and the set. A `UserError` if weights
    or a shard do not load, or the variant needs other samples than a set has.
    """
    device = pick_device(settings.device)
    network, variant = settings.load_network(dtype=None)
    for manifest in manifests:
        check_images(manifest, variant)
    hold_matrices_in(network, pick_dtype(settings.dtype, device, network))
    if device.type == "cpu":
        settle_threads(network, _BATCH)
    objective = Objective(network.to(device).eval(), variant, torch.float32)  # matrices have their type, no autocast
    spec = CropSpec.of(variant, network.template_grid, network.search_grid)
    jitter = AugmentConfig(scale_jitter=settings.scale_jitter, translation_jitter=settings.translation_jitter)
    augment = jitter.windows_only()
    pairs = -(-settings.pairs // _BATCH) * _BATCH
    plan: dict[str, Any] = {"seed": settings.seed, "batch_size": _BATCH, "pairs_per_epoch": pairs, "epochs": 1}
    window = penalty_window(network.search_grid, device)
    for manifest in manifests:
        source, found = Source((manifest,), (1,), spec, augment, **plan), list[NDArray[np.float64]]()
        with closing(make_loader(source, workers=settings.workers)) as batches, torch.inference_mode():
            for number, batch in enumerate(batches, start=1):
                batch = batch.to(device)
                for n, seen in enumerate(objective.predict(*batch.inputs[:4])):
                    box = select_box(seen.score_map.float(), seen.boxes.float(), window, 0.0).box
                    found.append(box_overlaps(box, batch.box[:, n].float())[0].double().cpu().numpy())
                progress(number * _BATCH, pairs, manifest.name)
        yield PairScores(manifest.name, np.concatenate(found)[: settings.pairs * spec.searches])
