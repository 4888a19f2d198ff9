import numpy as np
import pytest

from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.tracker import Targets
from lorat.evaluate.video.follow import follow
from lorat.evaluate.video.footage import Place, Shot
from lorat.evaluate.video.given import Given, read_given
from lorat.shards.base.errors import UserError
from tests.evaluate.conftest import picture


@pytest.mark.parametrize(
    ("text", "number", "object_", "place"),
    [
        ("1,2,3,4", 2, 2, None),
        ("1 2  3, 4", 1, 1, None),
        ("120:1,2,3,4", 3, 3, Place(120)),
        ("4.5s:1,2,3,4", 1, 1, Place(None, 4.5)),
        ("120:1,2,3,4", None, 1, Place(120)),
        ("2@4s:1,2,3,4", None, 2, Place(None, 4.0)),
    ],
)
def test_a_box_says_object_place_and_numbers(text, number, object_, place):
    given = Given.parse(text, number)
    assert (given.object, given.place, given.xywh.tolist()) == (object_, place, [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("boxes", "restarts", "part"),
    [
        (["2@3:1,2,3,4"], [], "--restart"),
        (["x:1,2,3,4"], [], "--box x: write a frame's number"),
        (["1,2,3,4"], ["1,2,3,4"], "name the frame"),
        (["1,2,3,4"], ["5:1,2,3"], "four numbers FRAME:x,y,w,h"),
        (["1,2,3,4"], ["2@5:1,2,3,4"], "there are 1 objects"),
    ],
)
def test_what_cannot_be_meant_is_refused(boxes, restarts, part):
    with pytest.raises(UserError, match=part):
        read_given(boxes, restarts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("35,16,39,33", None),
        ("0,0,320,240", None),
        ("-9,0,40,40", None),
        ("200,100,300,200", ["72% of it lies outside the 320x240 frame", "corners: --box 200,100,100,100"]),
        ("290,200,60,60", ["centre comes first: --box 260,170,60,60"]),
        ("300,200,90,90", ["outside", "in pixels"]),
        ("0.5,0.25,0.2,0.1", ["fractions", "--box 160,60,64,24", "centre first: --box 128,48,64,24"]),
        ("35,16,0.4,0.4", ["a side is below 2 pixels"]),
        ("7:200,100,300,200", ["corners: --box 7:200,100,100,100"]),
    ],
)
def test_numbers_in_another_notation_are_noticed_with_what_to_type(text, parts):
    doubts = list(Given.parse(text, 1).doubts((320, 240)))
    assert len(doubts) == (parts is not None)
    for part in parts or ():
        assert part in doubts[0]


def shots(count: int, lost: tuple[int, ...] = ()):
    for index in range(count):
        yield Shot(index, index / 25, None if index in lost else picture(index, 0))


@pytest.fixture
def tracks(tiny_predictor):
    def run(boxes, restarts=(), count=6, lost=(), predictor: Predictor = tiny_predictor):
        return list(follow(shots(count, lost), Targets(predictor), read_given(boxes, restarts)))

    return run


def by_object(steps, number):
    return {s.shot.number: m for s in steps for m in s.marks if m.object == number}


def test_objects_together_are_tracked_as_each_alone(tracks):
    boxes = ["20,18,22,17", "60,30,20,20", "5,40,20,25"]
    together = tracks(boxes)
    for number, box in enumerate(boxes, start=1):
        alone, mine = by_object(tracks([box]), 1), by_object(together, number)
        for frame, mark in alone.items():
            np.testing.assert_allclose(mine[frame].box, mark.box, atol=1e-3)
            assert mine[frame].score == pytest.approx(mark.score, abs=1e-5)


@pytest.mark.parametrize("method", ["lorat", "spmtrack", "loratv2"])
def test_an_object_may_begin_later_or_begin_anew(method, tracks, small, tiny_predictor):
    predictor = tiny_predictor if method == "lorat" else small(method)
    steps = tracks(["20,18,22,17", "3:60,30,20,20"], ["1@4:30,20,22,17"], predictor=predictor)
    first, second = by_object(steps, 1), by_object(steps, 2)
    assert sorted(first) == [*range(6)] and sorted(second) == [3, 4, 5]
    np.testing.assert_array_equal(first[4].box, [30, 20, 52, 37])
    assert first[4].score == second[3].score == 1.0 and first[4].state == "tracked"
    np.testing.assert_array_equal(second[3].box, [60, 30, 80, 50])
    whole = by_object(tracks(["20,18,22,17"], predictor=predictor), 1)
    for frame in (1, 2, 3):
        np.testing.assert_allclose(first[frame].box, whole[frame].box, atol=1e-3)
    targets = Targets(predictor)
    targets.start(picture(4, 0), [[30, 20, 52, 37]])
    np.testing.assert_allclose(first[5].box, targets.track(picture(5, 0))[0].box, atol=1e-3)


def test_a_box_for_a_frame_that_does_not_decode_waits_and_one_after_the_end_is_told(tracks, said):
    steps = tracks(["20,18,22,17", "2:60,30,20,20"], ["9:1,2,30,40"], lost=(2,))
    assert sorted(by_object(steps, 2)) == [3, 4, 5]
    assert np.isnan(by_object(steps, 1)[2].score)
    assert said.messages == ["--restart 9:1,2,30,40: the footage ended before that frame"]
    np.testing.assert_array_equal(steps[2].image, picture(1, 0))
