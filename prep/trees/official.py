"""The data sets' official split lists, which ship with the package.

A reader cuts these to what is on disk; a submission compares with them what the tree holds.
"""

from __future__ import annotations

import functools
from importlib import resources

__all__ = ["got10k_name", "official_names"]

_GOT10K_COUNTS = {"train": 9335, "val": 180, "test": 180}


@functools.cache
def official_names(dataset: str, split: str) -> tuple[str, ...] | None:
    """Return the official sequence names of a split, or None where no list is known.

    TNL2K's training list differs from the released folders in spaces and ampersands.
    """
    if dataset == "lasot" and split in ("train", "test"):
        return _lasot(split)
    if dataset == "lasot_ext" and split == "test":
        return tuple(f"{kind}-{k}" for kind in _lines("lasot_ext.txt") for k in range(1, 11))
    if dataset == "got10k":
        return _got10k(split)
    if (dataset, split) in (("trackingnet", "test"), ("tnl2k", "train"), ("tnl2k", "test")):
        return _lines(f"{dataset}_{split}.txt")
    return None


def got10k_name(split: str, number: int) -> str:
    """Return the folder name of a GOT-10k sequence; numbers start at 1."""
    return f"GOT-10k_{split.capitalize()}_{number:06d}"


def _lasot(split: str) -> tuple[str, ...]:
    names = []
    for line in _lines("lasot.txt"):
        kind, *test = line.split()
        numbers = [str(k) for k in range(1, 21)]
        chosen = test if split == "test" else [k for k in numbers if k not in test]
        names += [f"{kind}-{k}" for k in chosen]
    return tuple(names)


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
    text = (resources.files("lorat.prep.trees") / "data" / file).read_text("utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))
