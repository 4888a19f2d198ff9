"""Options that several commands of lorat-eval have in common."""

from __future__ import annotations

from dataclasses import dataclass

from lorat.evaluate.measure.ope import ConventionName
from lorat.shards.base.options import option


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringOptions:
    """How boxes are scored."""

    convention: ConventionName = option(
        "published",
        help="How LaSOT, LaSOT_Extension, TNL2K and VastTrack are scored: as the published "
        "numbers, or as their MATLAB toolkits do.",
    )
