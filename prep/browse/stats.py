"""What stored samples say of themselves, in quantiles, and how often a recipe draws a pair."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np

from lorat.configs.schema import RecipeConfig
from lorat.shards.manifest import Manifest
from lorat.shards.order import quotas
from lorat.shards.reader import ShardReader
from lorat.shards.sample import PairSample, StoredImage

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SPREAD = 16  # shards that a sample of rows is taken from, so that few files are opened


class Measure(NamedTuple):
    """One thing that is measured of stored pairs; the table that it is shown in, and its row there."""

    table: str
    row: str
    of: Callable[[PairSample], float]


_SIDE, _GAP = "Object side, sqrt(w·h), in pixels of the", "Frames between template and search"
MEASURES = {
    "object_frame": Measure(_SIDE, "frame", lambda pair: object_side(pair.search, stored=False)),
    "object_stored": Measure(_SIDE, "search image", lambda pair: object_side(pair.search)),
    "template_stored": Measure(_SIDE, "template image", lambda pair: object_side(pair.template)),
    "search_side": Measure("Stored images", "search, longer side", lambda pair: max(pair.search.size)),
    "search_kb": Measure("Stored images", "search, KB", lambda pair: len(pair.search.jpeg) / 1e3),
    "template_kb": Measure("Stored images", "template, KB", lambda pair: len(pair.template.jpeg) / 1e3),
    "gaps": Measure(_GAP, "{same_frame:.1%} in one frame", lambda pair: abs(pair.search.frame - pair.template.frame)),
}


class SampleStats(NamedTuple):
    """What some rows of a set, or all of them, say of themselves."""

    sampled: int
    sequences: int  # different ones among them
    same_frame: float  # share of pairs whose template and search frame are one frame (still images)
    quantiles: dict[str, tuple[float, ...]]
    """Each of `MEASURES` at `QUANTILES`: empty where nothing was measured; gaps where frames are two."""


def sample_stats(manifest: Manifest, most: int, progress: Callable[[int, int], None] | None = None) -> SampleStats:
    """Read at most `most` rows of a set and measure them; `progress` gets rows read and in all.
    `ShardCorrupt` if a row is damaged.
    """
    rows, sequences = list[list[float]](), set[str]()
    for number, wanted in spread_rows(manifest, most):
        with closing(ShardReader(manifest.folder / manifest.shards[number].shard)) as reader:
            for pair in map(reader.read, wanted):
                rows.append([measure.of(pair) for measure in MEASURES.values()])
                sequences.add(pair.sequence)
                if progress:
                    progress(len(rows), min(most, manifest.rows))
    columns = dict(zip(MEASURES, np.reshape(rows, (-1, len(MEASURES))).T, strict=True))
    gaps = columns["gaps"]
    columns["gaps"] = gaps[gaps > 0]
    quantiles = {
        name: tuple(round(value, 3) for value in np.quantile(values, QUANTILES).tolist()) if values.size else ()
        for name, values in columns.items()
    }
    return SampleStats(len(rows), len(sequences), int((gaps == 0).sum()) / max(1, len(rows)), quantiles)


def spread_rows(manifest: Manifest, most: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield (shard number, its rows) for at most `most` rows, spread evenly; all where they fit.
    Pairs are drawn independently, so rows at even distances from some of the shards are a random sample of the set.
    """
    filled = [(n, receipt.rows) for n, receipt in enumerate(manifest.shards) if receipt.rows]
    if manifest.rows <= most:
        yield from ((number, range(rows)) for number, rows in filled)
        return
    taken = min(_SPREAD, len(filled), most)
    for turn in range(taken):
        number, rows = filled[turn * len(filled) // taken]
        count = min((turn + 1) * most // taken - turn * most // taken, rows)
        yield number, [k * rows // count for k in range(count)]


def object_side(image: StoredImage, *, stored: bool = True) -> float:
    """Return sqrt(w·h) of the object, in pixels of the stored image or of the frame."""
    x1, y1, x2, y2 = image.box
    scale = np.prod(image.size) / np.prod(np.subtract(image.window, image.origin))
    return float(np.sqrt((x2 - x1) * (y2 - y1) * (scale if stored else 1.0)))


class Freshness(NamedTuple):
    """How a recipe draws one data set."""

    name: str
    weight: int
    pairs: int | None  # stored ones; None where the set is not there
    draws: int  # over the whole run
    fresh: float | None  # pairs / draws: 1 and more means that no pair is drawn twice
    times: float | None  # how often each pair is drawn, on average


def freshness(recipe: RecipeConfig, manifests: Sequence[Manifest]) -> list[Freshness]:
    """Return how often a recipe draws each of its data sets, whether there or not."""
    there = {manifest.name: manifest.rows for manifest in manifests}
    weights = recipe.data.datasets
    draws = quotas(list(weights.values()), recipe.train.epochs * recipe.train.pairs_per_epoch)
    found = []
    for (name, weight), drawn in zip(weights.items(), draws, strict=True):
        fresh = None if (pairs := there.get(name)) is None else pairs / max(1, drawn)
        found.append(Freshness(name, weight, pairs, drawn, fresh, drawn / pairs if pairs else None))
    return found
