"""Numbers of shard sets: sizes, objects, gaps, what was skipped, how often a recipe draws a pair.

Bytes, pairs, skipped pairs and windows come from the receipts and are exact. What the samples say
of themselves (objects, gaps, images) is read from all rows of a small set and from a sample of rows
of a large one; `SetStats.sampled` says how many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorat.configs.schema import RecipeConfig
from lorat.prep.browse.sets import skipped_pairs, spread_rows
from lorat.shards.manifest import Manifest
from lorat.shards.order import quotas
from lorat.shards.reader import ShardReader
from lorat.shards.sample import PairSample, StoredImage

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Quantiles = tuple[float, ...]
"""At `QUANTILES`; empty where nothing was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetStats:
    """The numbers of one data set split."""

    name: str
    shards: int
    pairs: int
    bytes: int
    skipped: dict[str, int]
    """Reason → pairs."""
    window_draws: int
    windows_cut: int
    """Of the draws, how many leave the stored window although the frame goes on."""
    sampled: int
    """Rows that the fields below come from; `pairs` where it is all of them."""
    sequences: int
    """Different sequences among them."""
    object_frame: Quantiles
    """sqrt(w·h) of the search box, pixels of the frame."""
    object_stored: Quantiles
    """The same in pixels of the stored search image."""
    template_stored: Quantiles
    """sqrt(w·h) of the template box, pixels of the stored template image."""
    search_side: Quantiles
    """Longer side of the stored search image, pixels."""
    search_kb: Quantiles
    template_kb: Quantiles
    same_frame: float
    """Share of pairs whose template and search frame are one frame (still images)."""
    gaps: Quantiles
    """Frames between template and search, where they are two."""
    kb_per_pair: float
    """Compressed kilobytes (1,000 bytes) a stored pair."""
    share_cut: float
    """Share of accepted window draws that leave the stored window."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How a recipe draws one data set."""

    name: str
    weight: int
    pairs: int | None
    """Stored pairs; None where the set is not there."""
    draws: int
    """Over the whole run."""
    fresh: float | None
    """Pool size / draws: 1 and more means that no pair is drawn twice."""
    times: float | None
    """How often each pair is drawn, on average."""


def set_stats(
    manifest: Manifest, most: int, progress: Callable[[int, int], None] | None = None
) -> SetStats:
    """Return the numbers of a shard set.

    Args:
        manifest: of the set.
        most: rows to read.
        progress: called with (rows read, rows in all).

    Raises:
        ShardCorrupt: if a row is damaged.
    """
    rows: list[tuple[float, ...]] = []
    sequences = set()
    for number, wanted in spread_rows(manifest, most):
        with closing(ShardReader(manifest.folder / manifest.shards[number].shard)) as reader:
            for row in wanted:
                sample = reader.read(row)
                rows.append(_measured(sample))
                sequences.add(sample.sequence)
                if progress:
                    progress(len(rows), min(most, manifest.rows))
    frame, stored, template, side, search_kb, template_kb, gaps = np.reshape(rows, (-1, 7)).T
    size = sum(receipt.bytes for receipt in manifest.shards)
    draws = sum(receipt.jitter_draws for receipt in manifest.shards)
    cut = sum(receipt.jitter_outside for receipt in manifest.shards)
    return SetStats(
        name=manifest.name,
        shards=len(manifest.shards),
        pairs=manifest.rows,
        bytes=size,
        skipped=skipped_pairs(manifest),
        window_draws=draws,
        windows_cut=cut,
        sampled=len(rows),
        sequences=len(sequences),
        object_frame=_quantiles(frame),
        object_stored=_quantiles(stored),
        template_stored=_quantiles(template),
        search_side=_quantiles(side),
        search_kb=_quantiles(search_kb),
        template_kb=_quantiles(template_kb),
        same_frame=int((gaps == 0).sum()) / max(1, len(rows)),
        gaps=_quantiles(gaps[gaps > 0]),
        kb_per_pair=size / 1e3 / max(1, manifest.rows),
        share_cut=cut / max(1, draws),
    )


def object_side(image: StoredImage, *, stored: bool) -> float:
    """Return sqrt(w·h) of the object, in pixels of the frame or of the stored image."""
    x1, y1, x2, y2 = image.box
    window = np.subtract(image.window, image.origin)
    scale = np.prod(image.size) / np.prod(window) if stored else 1.0
    return float(np.sqrt((x2 - x1) * (y2 - y1) * scale))


def freshness(recipe: RecipeConfig, manifests: Sequence[Manifest]) -> list[Freshness]:
    """Return how often a recipe draws each of its data sets, whether there or not."""
    there = {manifest.name: manifest.rows for manifest in manifests}
    weights = recipe.data.datasets
    total = recipe.train.epochs * recipe.train.pairs_per_epoch
    found = []
    for name, draws in zip(weights, quotas(list(weights.values()), total), strict=True):
        pairs = there.get(name)
        fresh = None if pairs is None else pairs / max(1, draws)
        found.append(
            Freshness(name, weights[name], pairs, draws, fresh, draws / pairs if pairs else None)
        )
    return found


def _measured(sample: PairSample) -> tuple[float, ...]:
    search, template = sample.search, sample.template
    return (
        object_side(search, stored=False),
        object_side(search, stored=True),
        object_side(template, stored=True),
        max(search.size),
        len(search.jpeg) / 1e3,
        len(template.jpeg) / 1e3,
        abs(search.frame - template.frame),
    )


def _quantiles(values: NDArray[np.float64]) -> Quantiles:
    if not values.size:
        return ()
    return tuple(round(v, 3) for v in np.quantile(values, QUANTILES).tolist())
