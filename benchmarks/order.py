"""Order of an epoch from a pool of 4 M pairs, and a resume in the middle of an epoch.

The order is computed with nothing kept from earlier calls. A resume starts with the manifests on disk and ends with the
first batch's places; imports are not counted.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lorat.configs.schema import AugmentConfig
from lorat.shards.manifest import Manifest, Receipt, load_manifest, shard_name
from lorat.shards.order import Pool, epoch_order
from lorat.train.data.places import CropSpec, Source, Steps

__all__ = ["run"]

_PAIRS = 4_000_000
_SHARD = 2048
_EPOCH = 131_072
_SETS = ("lasot", "got10k", "trackingnet", "coco")


def run(quick: bool) -> dict[str, float | str]:
    """Measure both.

    Args:
        quick: a pool of 40,000 pairs.

    Returns:
        Pairs of the pool, and seconds (median of 5): an epoch's order from one data set and from four, with windows of
        8 shards, of an epoch that goes over from one pass to the next, the slowest of these, and of a resume.
    """
    pairs = _PAIRS // 100 if quick else _PAIRS
    one = [Pool("all", 1, _rows(pairs))]
    four = [Pool(name, 1, _rows(pairs // 4)) for name in _SETS]
    between = pairs // _EPOCH  # the epoch in which the first pass over `one` ends
    with tempfile.TemporaryDirectory(prefix="lorat-bench-order-") as folder:
        _write_manifests(Path(folder), four)
        resume = _seconds(lambda: _resume(Path(folder)))
    orders = {
        "order_one_set_s": _seconds(lambda: epoch_order(one, 1, 3, _EPOCH)),
        "order_four_sets_s": _seconds(lambda: epoch_order(four, 1, 3, _EPOCH)),
        "order_window_8_s": _seconds(lambda: epoch_order(one, 1, 3, _EPOCH, 8)),
        "order_between_passes_s": _seconds(lambda: epoch_order(one, 1, between, _EPOCH)),
    }
    slowest = max(orders.values())
    return {"order_pairs": pairs, **orders, "order_slowest_s": slowest, "resume_s": resume}


def _rows(pairs: int) -> tuple[int, ...]:
    whole, rest = divmod(pairs, _SHARD)
    return (*(_SHARD,) * whole, *((rest,) if rest else ()))


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return round(sorted(taken)[2], 3)


def _write_manifests(folder: Path, pools: list[Pool]) -> None:
    """Write manifests as a build leaves them; there are no shards beside them."""
    for pool in pools:
        receipts = tuple(
            Receipt(
                shard=shard_name(pool.name, "train", number),
                first_pair=number * _SHARD,
                drawn=rows,
                rows=rows,
                bytes=200_000_000,
                sha256="0" * 64,
                index_sha256="1" * 64,
                config="2" * 16,
                skipped={"too few jittered windows show the object": 3},
                jitter_draws=100_000,
                jitter_outside=1_000,
            )
            for number, rows in enumerate(pool.rows)
        )
        place = folder / f"{pool.name}-train"
        place.mkdir()
        Manifest(pool.name, "train", {"seed": 42}, receipts, place).save()


def _resume(folder: Path) -> object:
    manifests = tuple(load_manifest(folder / f"{name}-train") for name in _SETS)
    source = Source(
        manifests=manifests,
        weights=(1,) * len(manifests),
        spec=CropSpec(112, 224, 8, 16, 2.0, 4.0),
        augment=AugmentConfig(),
        seed=1,
        batch_size=128,
        pairs_per_epoch=_EPOCH,
        epochs=170,
    )
    middle = 100 * source.steps_per_epoch + source.steps_per_epoch // 2
    return next(iter(Steps(source, middle, 0, 1)))


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv), indent=1))
