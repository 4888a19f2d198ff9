"""The data sets' official split lists and sizes, which ship with the package.

A reader cuts the lists to what is on disk; a submission and an audit compare with them what the tree holds.
``data/<dataset>_<split>.txt`` has a sequence a line, with its frames behind a tab where they are known: the rows of its
ground truth, computed from the annotations that were published.
"""

import functools
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

_COUNTED = {  # of these only the size is known. COCO: images with an object that is no crowd
    ("trackingnet", "train"): 30132,
    ("vasttrack", "train"): 47110,
    ("coco", "train"): 117266,
    ("coco", "val"): 4952,
}
_GOT10K = {"train": 9335, "val": 180, "test": 180}


@functools.cache
def official_names(dataset: str, split: str) -> tuple[str, ...] | None:
    """Return a split's official sequence names, or None; the folders of TNL2K-train have spaces and & besides."""
    if dataset == "got10k":
        part = "train" if split in ("vot", "vot_clean") else split
        numbers = set(range(1, _GOT10K.get(part, 0) + 1))
        if split == "vot":
            numbers = {index + 1 for index in _numbers("got10k_vot.txt")}
        elif split == "vot_clean":
            numbers -= set(_numbers("got10k_vot_prohibited.txt"))
        return tuple(f"GOT-10k_{part.capitalize()}_{number:06d}" for number in sorted(numbers)) or None
    if (dataset, split) == ("lasot_ext", "test"):
        return tuple(f"{kind}-{k}" for kind in _lines("lasot_ext.txt") for k in range(1, 11))
    return tuple(_sequences(dataset, split)) or None


def expected_sequences(dataset: str, split: str) -> int | None:
    """Return how many clips, as the reader yields them (COCO: images), the whole split has, or None where unknown."""
    names = official_names(dataset, split)
    return _COUNTED.get((dataset, split)) if names is None else len(names)


def how_to_get(dataset: str) -> tuple[str, list[str]]:
    """Return where a data set is to be had, and the lines that unpack it, comments among them; nothing if unknown."""
    for part in _text("getting.sh").split("\n\n"):
        first, *lines = part.strip().split("\n")
        names, _, page = first.removeprefix("# ").partition(": ")
        if dataset in names.split(", "):
            return page, lines
    return "", []


def of_published(count: int, expected: int | None) -> str:
    """Return ``7 of 280``, or the count alone where that is all, or not known."""
    return f"{count:,}" if expected in (None, count) else f"{count:,} of {expected:,}"


@functools.cache
def expected_frames(dataset: str, split: str) -> Mapping[str, int] | None:
    """Return the clips' names → frames of the whole split, or None where they are unknown of any official name."""
    if dataset in ("got10k", "nfs240"):
        return None
    known = {name: int(count) for name, count in _sequences(dataset, split).items() if count}
    return MappingProxyType(known) if known else None


def _sequences(dataset: str, split: str) -> dict[str, str]:
    """Return name → frames as they are written; nothing where no list ships."""
    rows = (line.partition("\t") for line in _lines(f"{'nfs30' if dataset == 'nfs240' else dataset}_{split}.txt"))
    return {name: count for name, _, count in rows}


def _numbers(file: str) -> list[int]:
    return [int(field) for line in _lines(file) for field in line.split()]


def _lines(file: str) -> list[str]:
    return [line for line in _text(file).splitlines() if line and not line.startswith("#")]


def _text(file: str) -> str:
    place = resources.files("lorat.prep.trees.base") / "data" / file
    return place.read_text("utf-8") if place.is_file() else ""
