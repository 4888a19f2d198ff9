"""A network that answers VOT's toolkit."""

from lorat.evaluate.segment.segmenter import Segmenter
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.tracker import Targets
from lorat.evaluate.vot.dialogue import Dialogue
from lorat.shards.pixels.jpeg import Range16, range_of, read_image


def serve(
    dialogue: Dialogue, predictor: Predictor, range16: Range16 | None = None, segmenter: Segmenter | None = None
) -> None:
    """Track sequence after sequence until the toolkit quits, and answer with masks where there is a `segmenter`. Every
    frame is decoded once, for all of its objects, which go through the network together. A `UserError` for a frame that
    does not decode, or a first box outside of it.
    """
    targets, fixed = Targets(predictor), range16
    for image, boxes in dialogue.requests():
        if boxes is not None:
            fixed = range16 and range_of(image, range16)
            # The toolkit does not say how long a sequence is; its images stand in one folder.
            targets.start(read_image(image, fixed), boxes, frames=sum(1 for _ in image.parent.iterdir()))
            dialogue.answer(boxes, [1.0] * len(boxes))
        else:
            frame = read_image(image, fixed)
            found = targets.track(frame)
            reported = [answer.box for answer in found]
            masks = segmenter(frame, reported) if segmenter else None
            dialogue.answer(reported, [answer.score for answer in found], masks)
