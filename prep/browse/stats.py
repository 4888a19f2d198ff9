"""What stored samples say of themselves, in quantiles, and how often a recipe draws a pair."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np

from lorat.configs.schema import RecipeConfig
from lorat.shards.manifest import Manifest
from lorat.shards.order import quotas
from lorat.shards.reader import ShardReader
from lorat.shards.sample import Sample, StoredImage

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SPREAD = 16  # shards that a sample of rows is taken from, so that few files are opened


class Measure(NamedTuple):
    """One thing that is measured of stored samples; the table that it is shown in, and its row there."""

    table: str
    row: str
    of: Callable[[Sample], list[float]]  # of each search image, each template, or each two of them


def _gaps(sample: Sample) -> list[float]:
    return [abs(search.frame - template.frame) for template in sample.templates for search in sample.searches]


_SIDE, _GAP = "Object side, sqrt(w·h), in pixels of the", "Frames between template and search"
MEASURES = {
    "object_frame": Measure(_SIDE, "frame", lambda s: [object_side(image, stored=False) for image in s.searches]),
    "object_stored": Measure(_SIDE, "search image", lambda s: list(map(object_side, s.searches))),
    "template_stored": Measure(_SIDE, "template image", lambda s: list(map(object_side, s.templates))),
    "search_side": Measure("Stored images", "search, longer side", lambda s: [max(i.size) for i in s.searches]),
    "search_kb": Measure("Stored images", "search, KB", lambda s: [len(i.jpeg) / 1e3 for i in s.searches]),
    "template_kb": Measure("Stored images", "template, KB", lambda s: [len(i.jpeg) / 1e3 for i in s.templates]),
    "gaps": Measure(_GAP, "{same_frame:.1%} in one frame", _gaps),
}


class SampleStats(NamedTuple):
    """What some rows of a set, or all of them, say of themselves."""

    sampled: int
    sequences: int  # different ones among them
    same_frame: float  # share of pairs, of a template and a search frame, that are one frame (still images)
    quantiles: dict[str, tuple[float, ...]]
    """Each of `MEASURES` at `QUANTILES`: empty where nothing was measured; gaps where frames are two."""


def sample_stats(manifest: Manifest, most: int, progress: Callable[[int, int], None] | None = None) -> SampleStats:
    """Read at most `most` rows of a set and measure them; `progress` gets rows read and in all.
    `ShardCorrupt` if a row is damaged.
    """
    columns: dict[str, list[float]] = {name: [] for name in MEASURES}
    sampled, sequences = 0, set[str]()
    for number, wanted in spread_rows(manifest, most):
        with closing(ShardReader(manifest.folder / manifest.shards[number].shard)) as reader:
            for sample in map(reader.read, wanted):
                for name, measure in MEASURES.items():
                    columns[name] += measure.of(sample)
                sequences.add(sample.sequence)
                sampled += 1
                if progress:
                    progress(sampled, min(most, manifest.rows))
    same = columns["gaps"].count(0) / max(1, len(columns["gaps"]))
    columns["gaps"] = [gap for gap in columns["gaps"] if gap]
    quantiles = {
        name: tuple(round(value, 3) for value in np.quantile(values, QUANTILES).tolist()) if values else ()
        for name, values in columns.items()
    }
    return SampleStats(sampled, len(sequences), same, quantiles)


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
