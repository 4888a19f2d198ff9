"""Numbers of shard sets: sizes, objects, gaps, what was skipped, how often a recipe draws a pair.

Bytes, pairs, skipped pairs and windows come from the receipts and are exact. What the samples say
of themselves (objects, gaps, images) is read from all rows of a small set and from a sample of rows
of a large one; `SetStats.sampled` says how many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lorat.configs.schema import RecipeConfig
from lorat.prep.browse.sets import spread_rows
from lorat.shards.manifest import Manifest
from lorat.shards.order import quotas
from lorat.shards.reader import ShardReader
from lorat.shards.sample import PairSample, StoredImage

__all__ = ["QUANTILES", "Freshness", "SetStats", "freshness", "set_stats", "stats_json"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class SetStats:
    """The numbers of one data set split. Quantiles are at `QUANTILES`."""

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
    object_frame: tuple[float, ...]
    """sqrt(w·h) of the search box, pixels of the frame."""
    object_stored: tuple[float, ...]
    """The same in pixels of the stored search image."""
    template_stored: tuple[float, ...]
    """sqrt(w·h) of the template box, pixels of the stored template image."""
    search_side: tuple[float, ...]
    """Longer side of the stored search image, pixels."""
    search_kb: tuple[float, ...]
    template_kb: tuple[float, ...]
    same_frame: float
    """Share of pairs whose template and search frame are one frame (still images)."""
    gaps: tuple[float, ...]
    """Frames between template and search, where they are two; empty where none are."""

    @property
    def kb_per_pair(self) -> float:
        """Compressed kilobytes (1,000 bytes) a stored pair."""
        return self.bytes / 1e3 / max(1, self.pairs)

    @property
    def share_cut(self) -> float:
        """Share of accepted window draws that leave the stored window."""
        return self.windows_cut / max(1, self.window_draws)


@dataclass(frozen=True, slots=True)
class Freshness:
    """How a recipe draws one data set."""

    name: str
    weight: int
    pairs: int | None
    """Stored pairs; None where the set is not there."""
    draws: int
    """Over the whole run."""

    @property
    def fresh(self) -> float | None:
        """Pool size / draws: 1 and more means that no pair is drawn twice."""
        return None if self.pairs is None else self.pairs / max(1, self.draws)

    @property
    def times(self) -> float | None:
        """How often each pair is drawn, on average."""
        return None if not self.pairs else self.draws / self.pairs


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
    rows: list[_Row] = []
    total = min(most, manifest.rows)
    for number, wanted in spread_rows(manifest, most):
        reader = ShardReader(manifest.folder / manifest.shards[number].shard)
        try:
            for row in wanted:
                rows.append(_measure(reader.read(row)))
                if progress:
                    progress(len(rows), total)
        finally:
            reader.close()
    gaps = [row.gap for row in rows if row.gap]
    return SetStats(
        name=manifest.name,
        shards=len(manifest.shards),
        pairs=manifest.rows,
        bytes=sum(receipt.bytes for receipt in manifest.shards),
        skipped=dict(sum((Counter(r.skipped) for r in manifest.shards), Counter[str]())),
        window_draws=sum(receipt.jitter_draws for receipt in manifest.shards),
        windows_cut=sum(receipt.jitter_outside for receipt in manifest.shards),
        sampled=len(rows),
        sequences=len({row.sequence for row in rows}),
        object_frame=_quantiles([row.object_frame for row in rows]),
        object_stored=_quantiles([row.object_stored for row in rows]),
        template_stored=_quantiles([row.template_stored for row in rows]),
        search_side=_quantiles([row.search_side for row in rows]),
        search_kb=_quantiles([row.search_bytes / 1e3 for row in rows]),
        template_kb=_quantiles([row.template_bytes / 1e3 for row in rows]),
        same_frame=sum(row.gap == 0 for row in rows) / max(1, len(rows)),
        gaps=_quantiles(gaps),
    )


def freshness(recipe: RecipeConfig, manifests: Sequence[Manifest]) -> list[Freshness]:
    """Return how often a recipe draws each of its data sets, whether there or not."""
    rows = {manifest.name: manifest.rows for manifest in manifests}
    weights = list(recipe.data.datasets.values())
    total = recipe.train.epochs * recipe.train.pairs_per_epoch
    return [
        Freshness(name, weight, rows.get(name), draws)
        for (name, weight), draws in zip(
            recipe.data.datasets.items(), quotas(weights, total), strict=True
        )
    ]


def stats_json(
    stats: Sequence[SetStats], recipe: RecipeConfig, fresh: Sequence[Freshness]
) -> dict[str, Any]:
    """Return everything as JSON values."""
    return {
        "quantiles": list(QUANTILES),
        "sets": [
            {**asdict(s), "kb_per_pair": s.kb_per_pair, "share_cut": s.share_cut} for s in stats
        ],
        "recipe": recipe.name,
        "freshness": [{**asdict(f), "fresh": f.fresh, "times": f.times} for f in fresh],
    }


@dataclass(frozen=True, slots=True)
class _Row:
    sequence: str
    gap: int
    object_frame: float
    object_stored: float
    template_stored: float
    search_side: int
    search_bytes: int
    template_bytes: int


def _measure(sample: PairSample) -> _Row:
    return _Row(
        sequence=sample.sequence,
        gap=abs(sample.search.frame - sample.template.frame),
        object_frame=_side(sample.search),
        object_stored=_side(sample.search) * _scale(sample.search),
        template_stored=_side(sample.template) * _scale(sample.template),
        search_side=max(sample.search.size),
        search_bytes=len(sample.search.jpeg),
        template_bytes=len(sample.template.jpeg),
    )


def _side(image: StoredImage) -> float:
    x1, y1, x2, y2 = image.box
    return float(np.sqrt((x2 - x1) * (y2 - y1)))


def _scale(image: StoredImage) -> float:
    """Return stored pixels a frame pixel, the geometric mean of both axes."""
    factors = [
        size / (end - origin)
        for size, origin, end in zip(image.size, image.origin, image.window, strict=True)
    ]
    return float(np.sqrt(factors[0] * factors[1]))


def _quantiles(values: ArrayLike) -> tuple[float, ...]:
    values = np.asarray(values, dtype=np.float64)
    if not values.size:
        return ()
    return tuple(round(v, 3) for v in np.quantile(values, QUANTILES).tolist())
