import dataclasses

import cv2
import numpy as np
import pytest

from lorat.evaluate.measure.scores import dataset_scores
from lorat.evaluate.report.strips import first_loss, worst_strips
from lorat.evaluate.results.files import SequenceResult
from lorat.shards.pixels.geometry import xyxy_to_xywh


def _result(clip, lost_from=None):
    boxes = clip.tracks[0].boxes.copy()
    if lost_from is not None:
        boxes[lost_from:] = boxes[lost_from:] * 0.1
    unknown = np.full(len(boxes), 0.5)
    return SequenceResult(clip.name, xyxy_to_xywh(boxes), unknown, unknown)


@pytest.fixture
def scored(make_clip):
    clips = [make_clip("good", 30), make_clip("bad", 30, 1), make_clip("middling", 30, 2)]
    results = {"good": _result(clips[0]), "bad": _result(clips[1], 8), "middling": _result(clips[2], 20)}
    return clips, results


def test_the_worst_come_first_and_show_where_the_object_was_lost(scored):
    clips, results = scored
    strips = worst_strips(clips, results, dataset_scores(clips, [results]), count=2, frames=5)
    assert [strip.name for strip in strips] == ["bad", "middling"]
    bad = strips[0]
    assert bad.lost == 9 and bad.lost in [each.number for each in bad.pictures]
    assert [each.number for each in bad.pictures][:1] == [1] and len(bad.pictures) == 5
    assert bad.pictures[0].overlap == pytest.approx(1.0)
    for each in bad.pictures:
        image = cv2.imdecode(np.frombuffer(each.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert (image.shape[1], image.shape[0]) == each.size and max(each.size) <= 320
    assert len(bad.overlap) == 30 and bad.overlap[-1] == 0.0


def test_both_boxes_are_drawn(scored):
    clips, results = scored
    (strip,) = worst_strips(clips, results, dataset_scores(clips, [results]), count=1, frames=3)
    image = cv2.imdecode(np.frombuffer(strip.pictures[-1].jpeg, np.uint8), cv2.IMREAD_COLOR)
    red, green = image[..., 2].astype(int), image[..., 1].astype(int)
    assert (red - green > 60).sum() > 20, "the predicted box is orange"
    assert (green - red > 80).sum() > 20, "the true box is green"


def test_frames_that_do_not_decode_are_left_out_and_counted(scored):
    clips, results = scored
    for index in (0, 29):
        clips[1].frames[index].write_bytes(b"no image")
    (strip,) = worst_strips(clips, results, dataset_scores(clips, [results]), count=1, frames=5)
    assert strip.undecoded == 2 and len(strip.pictures) == 3


def test_an_absent_object_has_no_true_box_and_no_overlap(make_clip):
    clip = make_clip("a", 12)
    visible = np.ones(12, bool)
    visible[-1] = False
    track = dataclasses.replace(clip.tracks[0], visible=visible)
    clip = dataclasses.replace(clip, tracks=(track,))
    results = {"a": _result(clip)}
    (strip,) = worst_strips([clip], results, dataset_scores([clip], [results]))
    assert strip.pictures[-1].overlap is None and strip.overlap[-1] is None
    assert strip.lost is None


@pytest.mark.parametrize(
    ("overlap", "lost"),
    [
        ([1.0] * 5 + [0.0] * 12, 5),
        ([1.0] * 5 + [0.0] * 3, 5),
        ([1.0] * 5 + [0.0] * 9 + [1.0] * 5, None),
        ([1.0] * 5 + [0.0] * 10 + [1.0] * 5, 5),
        ([1.0, 0.0, np.nan, 0.0, np.nan] + [0.0] * 9, 1),
        ([np.nan] * 4, None),
        ([1.0], None),
    ],
)
def test_a_loss_lasts_ten_frames_or_to_the_end(overlap, lost):
    assert first_loss(np.array(overlap)) == lost
