"""TraX, the protocol in which VOT's toolkit sends frames and takes regions, as a tracker of boxes, or masks, speaks it.

Coordinates are as published: a region of the toolkit is a box in continuous pixels, x, y, w, h, or a mask, of which the
box around its pixels is taken; what goes back is a mask of the frame, empty for a lost target, or the smallest box of
whole pixels that covers ours, and 0, 0, 0, 0 for a lost target.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.prep.trees.base.regions import box_around
from lorat.shards.base.errors import UserError, counted
from lorat.shards.pixels.geometry import rasterise, xywh_to_xyxy, xyxy_to_xywh


class Request(NamedTuple):
    """A frame, and the objects that begin in it: (N, 4) xyxy, or None where those of the last such frame go on."""

    image: Path
    boxes: NDArray[np.float64] | None


class Dialogue:
    """A tracker's end of a dialogue on stdin and stdout. The toolkit waits for the first word without a limit, and for
    each answer as long as its trackers.ini says.
    """

    def __init__(self, *, masks: bool = False) -> None:
        """Say hello, as a tracker of masks or of boxes; a `UserError` where the package that speaks TraX is missing."""
        try:
            import trax
        except ImportError:
            raise UserError("TraX needs another package; pip install vot-trax") from None
        self._trax = trax
        # Other regions than these, and masks for a tracker of boxes, the toolkit turns into the boxes around them.
        regions = [trax.Region.MASK, trax.Region.RECTANGLE] if masks else [trax.Region.RECTANGLE]
        self._server = trax.Server(regions, [trax.Image.PATH], ["color"], "LoRAT", multiobject=True)

    def requests(self) -> Iterator[Request]:
        """Yield what the toolkit asks, each to be answered, until it quits; a `UserError` if it is gone before."""
        while True:
            try:
                request = self._server.wait()
            except self._trax.TraxException as error:
                raise UserError(f"the toolkit is gone ({error}); this command is for its trackers.ini") from None
            if request.type == self._trax.TraxStatus.QUIT:
                return
            image, boxes = Path(request.image["color"].path()), None
            if request.objects:
                boxes = xywh_to_xyxy(np.array([self._box(region) for region, _ in request.objects], np.float64))
                if request.type != self._trax.TraxStatus.INITIALIZE:
                    raise UserError(f"{image}: {counted(len(boxes), 'object')} would begin after the first frame")
            yield Request(image, boxes)

    def _box(self, region: Any) -> ArrayLike:
        """Return the x, y, w, h of a region."""
        if region.type != self._trax.Region.MASK:
            return region.bounds()
        x, y = region.offset()
        return box_around(x, y, region.array() > 0)

    def answer(
        self, boxes: Iterable[ArrayLike], scores: Sequence[float], masks: NDArray[np.bool_] | None = None
    ) -> None:
        """Send the (4,) xyxy box of each object, or its mask of (N, H, W) `masks`. The score, too, of a lone one:
        several have none, as published.
        """
        properties = [{"confidence": score} if len(scores) == 1 else {} for score in scores]
        if masks is None:
            regions = [self._trax.Rectangle.create(*pixel_cover(box)) for box in boxes]
        else:
            regions = [self._trax.Mask.create(np.ascontiguousarray(mask, np.uint8)) for mask in masks]
        self._server.status(list(zip(regions, properties, strict=True)))


def pixel_cover(box: ArrayLike) -> NDArray[np.float64]:
    """Return x, y, w, h of the whole pixels that a (4,) xyxy box touches; zeros if it has no area."""
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64)
    return xyxy_to_xywh(rasterise(box)) if x2 > x1 and y2 > y1 else np.zeros(4)
