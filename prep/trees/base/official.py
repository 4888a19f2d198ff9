"""The data sets' official split lists and sizes, which ship with the package.

A reader cuts the lists to what is on disk; a submission and an audit compare with them what the
tree holds. ``data/<dataset>_<split>.txt`` has a sequence a line, with its frames behind a tab where
they are known: the rows of its ground truth, computed from the annotations that were published.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

_GOT10K_COUNTS = {"train": 9335, "val": 180, "test": 180}

# A file a split, <dataset>_<split>.txt; both rates of NFS have the same sequences.
_LISTED = {
    *(("lasot", "train"), ("lasot", "test"), ("trackingnet", "test"), ("tnl2k", "train")),
    *(("tnl2k", "test"), ("vasttrack", "test"), ("uav123", "all"), ("uav20l", "all")),
    *(("otb", "all"), ("nfs30", "all"), ("nfs240", "all"), ("tc128", "all")),
}

# Splits of which only the size is known. COCO: images with an object that is no crowd.
_COUNTED = {
    ("trackingnet", "train"): 30132,
    ("vasttrack", "train"): 47110,
    ("coco", "train"): 117266,
    ("coco", "val"): 4952,
}


@functools.cache
def official_names(dataset: str, split: str) -> tuple[str, ...] | None:
    """Return the official sequence names of a split, or None where no list is known.

    TNL2K's training list differs from the released folders in spaces and ampersands.
    """
    if (dataset, split) in _LISTED:
        return tuple(_sequences(dataset, split))
    if dataset == "lasot_ext" and split == "test":
        return tuple(f"{kind}-{k}" for kind in _lines("lasot_ext.txt") for k in range(1, 11))
    if dataset == "got10k":
        return _got10k(split)
    return None


def expected_sequences(dataset: str, split: str) -> int | None:
    """Return how many sequences (COCO: images) the whole split has, or None where unknown.

    A sequence is a clip as the reader yields it: one for each object where a folder has several.
    """
    names = official_names(dataset, split)
    return _COUNTED.get((dataset, split)) if names is None else len(names)


@functools.cache
def expected_frames(dataset: str, split: str) -> Mapping[str, int] | None:
    """Return sequence name → frames of the whole split, or None where they are unknown.

    The names are those of the clips; where the mapping is known, it has every official name. The
    split's total is the sum of its values.
    """
    if dataset == "nfs240" or (dataset, split) not in _LISTED:
        return None
    counts = _sequences(dataset, split)
    known = {name: count for name, count in counts.items() if count is not None}
    return MappingProxyType(known) if known else None


def got10k_name(split: str, number: int) -> str:
    """Return the folder name of a GOT-10k sequence; numbers start at 1."""
    return f"GOT-10k_{split.capitalize()}_{number:06d}"


def _sequences(dataset: str, split: str) -> dict[str, int | None]:
    file = f"{dataset.replace('240', '30')}_{split}.txt"
    rows = (line.partition("\t") for line in _lines(file))
    return {name: int(count) if tab else None for name, tab, count in rows}


def _got10k(split: str) -> tuple[str, ...] | None:
    if split in _GOT10K_COUNTS:
        return tuple(got10k_name(split, n) for n in range(1, _GOT10K_COUNTS[split] + 1))
    if split == "vot":
        return tuple(got10k_name("train", index + 1) for index in _numbers("got10k_vot.txt"))
    if split == "vot_clean":
        prohibited = set(_numbers("got10k_vot_prohibited.txt"))
        kept = (n for n in range(1, _GOT10K_COUNTS["train"] + 1) if n not in prohibited)
        return tuple(got10k_name("train", n) for n in kept)
    return None


def _numbers(file: str) -> list[int]:
    return [int(field) for line in _lines(file) for field in line.split()]


def _lines(file: str) -> tuple[str, ...]:
    text = (resources.files("lorat.prep.trees.base") / "data" / file).read_text("utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))
