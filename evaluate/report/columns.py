"""The measures: what tables call them, where they stand in scores, what is published of them.

One table serves the console, the report page and metrics.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from lorat.evaluate.measure.attributes import AttributeScores
from lorat.evaluate.measure.scores import DatasetScores, SequenceScores

Scores: TypeAlias = DatasetScores | SequenceScores | AttributeScores

NEVER_MOVING = "never moving"
"""What reports call the tracker that repeats its first box."""


@dataclass(frozen=True, slots=True)
class Column:
    """A measure."""

    heading: str
    path: str
    """Where it stands in scores."""
    published: str = ""
    """Its name among the published numbers."""
    share: bool = True
    """Whether it is a share, which is shown in per cent."""

    def read(self, scores: Scores | None) -> float | None:
        """Return its value; None where the scores have none."""
        value: object = scores
        for name in self.path.split("."):
            value = getattr(value, name, None)
        return value if isinstance(value, float) else None

    def shown(self, scores: Scores | None) -> float | None:
        """Return what is shown of it: shares in per cent; None where there is no number."""
        value = self.read(scores)
        if value is None or not math.isfinite(value):
            return None
        return 100 * value if self.share else value

    def text(self, scores: Scores) -> str:
        """Return what a table shows of it."""
        value = self.shown(scores)
        if value is None:
            return "-"
        return f"{value:.1f}" if self.share or value < 10 else f"{value:.0f}"


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "auc": Column("AUC", "curves.auc", "auc"),
        "op50": Column("OP50", "curves.op50"),
        "op75": Column("OP75", "curves.op75"),
        "precision": Column("P", "curves.precision_20", "precision"),
        "norm_precision": Column("Pnorm", "curves.norm_precision_20", "norm_precision"),
        "norm_precision_corrected": Column("Pnorm*", "norm_precision_corrected"),
        "ao": Column("AO", "got10k.ao", "ao"),
        "sr50": Column("SR0.5", "got10k.sr50", "sr50"),
        "sr75": Column("SR0.75", "got10k.sr75", "sr75"),
        # TrackingNet's published numbers are its server's, which gives areas.
        "success_area": Column("area S", "trackingnet.success", "auc"),
        "precision_area": Column("area P", "trackingnet.precision", "precision"),
        "norm_precision_area": Column("area Pn", "trackingnet.norm_precision", "norm_precision"),
        "fps": Column("fps", "fps", share=False),
        "speed": Column("speed", "got10k.speed", share=False),
    }
)
"""By name, in the order of tables."""

OF_ATTRIBUTES = ("auc", "precision", "norm_precision")
OF_SEQUENCES = ("auc", "op50", "op75", "precision", "norm_precision", "fps")
OF_SETS = (*OF_SEQUENCES[:-1], "norm_precision_corrected", "fps")
"""What metrics.json holds of each, besides the toolkits' own measures."""


def filled(names: Sequence[str], every: Sequence[DatasetScores]) -> dict[str, Column]:
    """Return the columns of these names that some scores have, and fps."""
    return {
        name: COLUMNS[name]
        for name in names
        if name == "fps" or any(COLUMNS[name].read(scores) is not None for scores in every)
    }
