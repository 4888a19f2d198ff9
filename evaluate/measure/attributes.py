"""Scores by attribute: what happens in a sequence, as the data sets' authors labelled it. Labels of the test splits of
LaSOT and VastTrack, and of LaSOT_Extension, stand in ``data/``, a line a sequence.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Final

from lorat.evaluate.measure.ope import Curves

# Code → what it stands for, in LaSOT's order; VastTrack has nine of these, and INV.
TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {"IV": "Illumination variation", "POC": "Partial occlusion", "DEF": "Deformation", "MB": "Motion blur"}
    | {"CM": "Camera motion", "ROT": "Rotation", "BC": "Background clutter", "VC": "Viewpoint change"}
    | {"SV": "Scale variation", "FOC": "Full occlusion", "FM": "Fast motion", "OV": "Out of view"}
    | {"LR": "Low resolution", "ARC": "Aspect ratio change", "INV": "Invisibility"}
)


@dataclass(frozen=True, eq=False, slots=True)
class AttributeScores:
    """OPE scores over the scored sequences that have an attribute, and how many these are."""

    code: str
    title: str
    sequences: int
    curves: Curves


@functools.cache
def attributes_of(dataset: str, split: str) -> Mapping[str, tuple[str, ...]] | None:
    """Return name → codes, some of them none, of the official split; None where the labels are not known."""
    file = resources.files("lorat.evaluate.measure") / f"data/{dataset}_{split}_attributes.txt"
    if not file.is_file():
        return None
    rows = (line.partition("\t") for line in file.read_text("utf-8").splitlines() if not line.startswith("#"))
    return MappingProxyType({name: tuple(codes.split()) for name, _, codes in rows})


def attribute_scores(
    labels: Mapping[str, Sequence[str]], curves: Mapping[str, Curves], mean: Callable[[Sequence[Curves]], Curves]
) -> tuple[AttributeScores, ...]:
    """Average, as `mean` does, the curves of the sequences that have each attribute, in the order of `TITLES`. `labels`
    and `curves` are by sequence; those without labels are left out.
    """
    scores = []
    for code, title in TITLES.items():
        if having := [curve for name, curve in curves.items() if code in labels.get(name, ())]:
            scores.append(AttributeScores(code, title, len(having), mean(having)))
    return tuple(scores)
