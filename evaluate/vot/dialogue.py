"""TraX, the protocol in which VOT's toolkit sends frames and takes regions, as a tracker of boxes speaks it.

Coordinates are as published: a region of the toolkit is a box in continuous pixels, x, y, w, h; what goes back is the
smallest box of whole pixels that covers ours, and 0, 0, 0, 0 for a lost target.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

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

    def __init__(self) -> None:
        """Say hello; a `UserError` where the package that speaks TraX is not installed."""
        try:
            import trax
        except ImportError:
            raise UserError("TraX needs another package; pip install vot-trax") from None
        self._trax = trax
        # The toolkit turns masks and polygons into the boxes around them for a tracker that takes nothing else.
        self._server = trax.Server([trax.Region.RECTANGLE], [trax.Image.PATH], ["color"], "LoRAT", multiobject=True)

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
                boxes = xywh_to_xyxy(np.array([region.bounds() for region, _ in request.objects], np.float64))
                if request.type != self._trax.TraxStatus.INITIALIZE:
                    raise UserError(f"{image}: {counted(len(boxes), 'object')} would begin after the first frame")
            yield Request(image, boxes)

    def answer(self, boxes: Iterable[ArrayLike], scores: Sequence[float]) -> None:
        """Send the (4,) xyxy box of each object. The score, too, of a lone one: several have none, as published."""
        properties = [{"confidence": score} if len(scores) == 1 else {} for score in scores]
        regions = [self._trax.Rectangle.create(*pixel_cover(box)) for box in boxes]
        self._server.status(list(zip(regions, properties, strict=True)))


def pixel_cover(box: ArrayLike) -> NDArray[np.float64]:
    """Return x, y, w, h of the whole pixels that a (4,) xyxy box touches; zeros if it has no area."""
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64)
    return xyxy_to_xywh(rasterise(box)) if x2 > x1 and y2 > y1 else np.zeros(4)
