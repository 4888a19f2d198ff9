import dataclasses
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from lorat.evaluate.track import batch as engine
from lorat.evaluate.track.batch import Failed, Tracked, Work, track_clips
from lorat.evaluate.track.memory.base import Known, Seen, Size
from lorat.evaluate.track.memory.cutouts import Cutout
from lorat.evaluate.track.memory.methods import target_size
from lorat.evaluate.track.tracker import Tracker
from lorat.prep.trees.base.clip import FrameFiles
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xyxy_to_xywh
from lorat.shards.pixels.jpeg import ImageError, read_image


def _alone(predictor, clip):
    """Track one clip frame by frame, as a person would with the tracker."""
    tracker = Tracker(predictor)
    box = clip.tracks[0].boxes[0]
    rows = [(box, 1.0)]
    tracker.start(read_image(clip.frames[0]), box)
    for path in list(clip.frames)[1:]:
        try:
            rows.append(tracker.track(read_image(path))[:2])
        except ImageError:
            rows.append((tracker.state.box, np.nan))
    boxes, scores = zip(*rows, strict=True)
    return xyxy_to_xywh(np.stack(boxes)), np.array(scores)


def _track(predictor, clips, **options):
    return track_clips(predictor, [Work(clip) for clip in clips], **options)


def _by_name(outcomes):
    return {outcome.work.clip.name: outcome for outcome in outcomes}


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 9])
def test_batched_results_equal_one_by_one_results(tiny_predictor, make_clip, batch, beside, monkeypatch):
    monkeypatch.setattr(engine, "works_beside", lambda device: beside)
    lengths = (7, 1, 4, 9, 2, 1, 5, 3, 6, 2, 8)
    clips = [make_clip(f"s{n}", frames, n) for n, frames in enumerate(lengths)]
    found = _by_name(_track(tiny_predictor, clips, batch=batch, threads=2))
    assert found.keys() == {clip.name for clip in clips}
    for clip in clips:
        boxes, scores = _alone(tiny_predictor, clip)
        result = found[clip.name].result
        np.testing.assert_allclose(result.boxes, boxes, rtol=0, atol=0.01)
        np.testing.assert_allclose(result.scores, scores, rtol=0, atol=1e-4)
        assert (result.times > 0).all()


@pytest.mark.parametrize("method", ["spmtrack", "loratv2"])
@pytest.mark.parametrize("batch", [2, 8])
def test_targets_of_trackers_that_remember_do_not_see_their_neighbours(small, make_clip, method, batch, monkeypatch):
    monkeypatch.setattr(engine, "works_beside", lambda device: True)
    predictor = small(method)
    clips = [make_clip(f"s{n}", frames, n) for n, frames in enumerate((9, 1, 6, 12, 2, 7, 3, 8, 5))]
    clips[3].frames[4].write_bytes(b"no image")
    for outcome in _track(predictor, clips, batch=batch, threads=2):
        boxes, scores = _alone(predictor, outcome.work.clip)
        np.testing.assert_allclose(outcome.result.boxes, boxes, rtol=0, atol=0.01)
        np.testing.assert_allclose(outcome.result.scores, scores, rtol=0, atol=1e-4)


def test_an_ended_sequence_makes_room_and_its_result_comes_before_the_others(tiny_predictor, make_clip):
    clips = [make_clip(name, frames) for name, frames in (("a", 8), ("b", 3), ("c", 4))]
    names = [o.work.clip.name for o in _track(tiny_predictor, clips, batch=2)]
    assert names == ["b", "c", "a"]


def test_work_is_taken_only_when_there_is_room_for_it(tiny_predictor, make_clip):
    taken = []

    def work():
        for name, frames in (("a", 9), ("b", 3), ("c", 2)):
            taken.append(name)
            yield Work(make_clip(name, frames))

    outcomes = track_clips(tiny_predictor, work(), batch=2)
    assert next(outcomes).work.clip.name == "b"
    assert taken == ["a", "b"]
    outcomes.close()


@pytest.mark.parametrize("beside", [True, False])
def test_folders_are_listed_before_there_is_room(tiny_predictor, make_clip, beside, monkeypatch):
    """While the first sequences are tracked, so many more are looked at, in the order of the work; a bad one of them
    fails in its turn.
    """
    monkeypatch.setattr(engine, "works_beside", lambda device: beside)
    looked, check, seen = [], engine.check_images, threading.Event()

    def recorded(clip):
        looked.append(clip.name)
        if len(looked) == 4:
            seen.set()
        check(clip)

    monkeypatch.setattr(engine, "check_images", recorded)
    clips = [make_clip(name, 4 + n) for n, name in enumerate("abcdef")]
    clips[2].frames[1].unlink()
    predict = tiny_predictor.predict
    monkeypatch.setattr(tiny_predictor, "predict", lambda *given: seen.wait(10) and predict(*given))
    outcomes = _track(tiny_predictor, clips, batch=2, ahead=2)
    assert next(outcomes).work.clip.name == "a"
    assert sorted(looked) == ["a", "b", "c", "d"]
    rest = [(type(outcome), outcome.work.clip.name) for outcome in outcomes]
    assert rest == [(Failed, "c"), (Tracked, "b"), (Tracked, "d"), (Tracked, "e"), (Tracked, "f")]


def test_repeated_runs_are_told_apart(tiny_predictor, make_clip):
    clip = make_clip("a", 3)
    outcomes = track_clips(tiny_predictor, [Work(clip, run) for run in (1, 2, 3)], batch=2)
    assert sorted(outcome.work.run for outcome in outcomes) == [1, 2, 3]


def test_where_the_network_takes_all_cores_nothing_is_decoded_beside_it(tiny_predictor, make_clip, monkeypatch):
    decoding, seen, read, predict = [0], [], FrameFiles.read, tiny_predictor.predict

    def counted_read(*which):
        decoding[0] += 1
        image = read(*which)
        decoding[0] -= 1
        return image

    def seen_predict(*arguments):
        seen.append(decoding[0])
        return predict(*arguments)

    monkeypatch.setattr(engine, "usable_cores", lambda: torch.get_num_threads())
    monkeypatch.setattr(FrameFiles, "read", counted_read)
    monkeypatch.setattr(tiny_predictor, "predict", seen_predict)
    list(_track(tiny_predictor, [make_clip(f"s{n}", 4, n) for n in range(8)], batch=8, threads=3))
    assert seen == [0, 0, 0]


def test_the_network_works_while_crops_are_cut(tiny_predictor, make_clip, monkeypatch):
    """Each group's crops are cut while the network has the other's: seen by who waits for whom."""
    began, inside, met = (threading.Event() for _ in range(3))
    predict, cut = tiny_predictor.predict, engine.prepare_search

    def slow_predict(*arguments):
        began.set()
        inside.set()
        met.wait(0.2)
        inside.clear()
        return predict(*arguments)

    def patient_cut(*arguments):
        # One that came before the network's other turn would show nothing: it waits for that.
        if began.is_set() and not met.is_set() and inside.wait(3):
            met.set()
        return cut(*arguments)

    monkeypatch.setattr(engine, "works_beside", lambda device: True)
    monkeypatch.setattr(tiny_predictor, "predict", slow_predict)
    monkeypatch.setattr(engine, "prepare_search", patient_cut)
    list(_track(tiny_predictor, [make_clip(f"s{n}", 3, n) for n in range(8)], batch=8))
    assert met.is_set()


def test_every_frame_is_announced_once(tiny_predictor, make_clip):
    seen = []
    clips = [make_clip("a", 5), make_clip("b", 3), make_clip("failing", 4)]
    clips[1].frames[2].write_bytes(b"no image")
    clips[2].frames[0].write_bytes(b"no image")
    list(_track(tiny_predictor, clips, batch=1, on_frames=seen.append))
    assert sum(seen) == 12


def test_a_frame_that_does_not_decode_keeps_the_last_box_and_has_no_score(tiny_predictor, make_clip):
    clips = [make_clip("whole", 6), make_clip("damaged", 6, 1)]
    for index in (3, 5):
        clips[1].frames[index].write_bytes(b"\xff\xd8 no image")
    found = _by_name(_track(tiny_predictor, clips, batch=2))
    result = found["damaged"].result
    assert np.flatnonzero(np.isnan(result.scores)).tolist() == [3, 5]
    np.testing.assert_array_equal(result.boxes[3], result.boxes[2])
    boxes, _ = _alone(tiny_predictor, clips[1])
    np.testing.assert_allclose(result.boxes, boxes, rtol=0, atol=0.01)
    assert np.isfinite(found["whole"].result.scores).all()


def test_crops_that_the_device_resamples_give_the_same_boxes(tiny_predictor, make_clip, monkeypatch):
    clips = [make_clip(f"s{n}", 5 + n, n) for n in range(3)]
    clips[1].frames[3].write_bytes(b"no image")
    here = _by_name(_track(tiny_predictor, clips, batch=3))
    monkeypatch.setattr(tiny_predictor, "room_for_crops", lambda batch: [Cutout() for _ in range(batch)])
    for name, outcome in _by_name(_track(tiny_predictor, clips, batch=3)).items():
        np.testing.assert_allclose(outcome.result.boxes, here[name].result.boxes, rtol=0, atol=0.05)
        np.testing.assert_allclose(outcome.result.scores, here[name].result.scores, rtol=0, atol=1e-3)


def test_sequences_that_cannot_be_tracked_fail_by_name_and_the_others_go_on(tiny_predictor, make_clip):
    few = make_clip("few", 5)
    few.frames[4].unlink()
    shorter = dataclasses.replace(make_clip("short", 3), annotated=9)
    empty = make_clip("empty", 3)
    empty.tracks[0].boxes[0, 2] = empty.tracks[0].boxes[0, 0]
    dark = make_clip("dark", 3)
    dark.frames[0].write_bytes(b"")
    away = make_clip("away", 3)
    away = dataclasses.replace(
        away, frames=dataclasses.replace(away.frames, folder=away.frames.folder / ("x" * 300))
    )  # no disk takes it
    clips = [few, shorter, empty, dark, away, make_clip("good", 3)]
    found = _by_name(_track(tiny_predictor, clips, batch=2))
    assert isinstance(found.pop("good"), Tracked)
    assert all(isinstance(outcome, Failed) for outcome in found.values())
    assert "1 of 5 images are missing, the first 00000005.jpg" in found["few"].reason
    assert "3 images for 9 lines" in found["short"].reason
    assert "no area" in found["empty"].reason
    assert "00000001.jpg" in found["dark"].reason
    assert "cannot be read (File name too long)" in found["away"].reason


def test_a_frame_of_another_size_is_tracked(tiny_predictor, make_clip):
    clip = make_clip("a", 3)
    cv2.imwrite(str(clip.frames[1]), cv2.resize(read_image(clip.frames[1]), (50, 40)))
    (outcome,) = _track(tiny_predictor, [clip])
    x, y, w, h = outcome.result.boxes[1]
    assert 0 <= x <= x + w <= 50 and 0 <= y <= y + h <= 40


def test_threads_end_when_the_results_are_no_longer_wanted(tiny_predictor, make_clip):
    outcomes = _track(tiny_predictor, [make_clip("a", 3), make_clip("b", 9)], batch=2)
    next(outcomes)
    outcomes.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("open", "decode", "crop", "network"))]


@pytest.mark.parametrize(("gib", "batch"), [(2, 16), (8, 32), (141, 64)])
def test_a_larger_device_takes_more_sequences(monkeypatch, gib, batch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=gib << 30))
    cuda, nothing = torch.device("cuda"), [Size()] * 100
    assert engine.usual_batch(cuda, nothing) == engine.usual_batch(cuda, []) == batch
    assert engine.usual_batch(cuda, [Size(device=256 << 20)]) == max(16, min(64, gib * 2))
    assert engine.usual_batch(torch.device("cpu"), nothing) == 16


def test_as_many_sequences_stand_side_by_side_as_memory_holds_of_what_they_remember(small, monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(engine, "memory_left", lambda: 2 << 30)
    long, short = Size(host=300 << 20), Size(host=1 << 20)
    assert engine.usual_batch(cpu, [long, long, long, long, short]) == 3
    assert engine.usual_batch(cpu, [Size(device=100 << 20)] * 40) == 10
    assert engine.usual_batch(cpu, [Size(host=3 << 30)]) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert engine.usual_batch(cpu, [Size(device=100 << 20)] * 40) == 2
    for method in ("spmtrack", "loratv2"):
        predictor = small(method)
        size, memory = target_size(predictor.network, predictor.variant, 41), predictor.memory(1)
        if method == "loratv2":
            assert size == Size(device=2 * memory.memory.nbytes)
            continue
        frame, box = np.zeros((72, 96, 3), np.uint8), np.array([20.0, 20, 40, 40])
        album, most = memory.begin(frame, box, np.zeros(3, np.float32), Known(41)), 0
        while album.count < 40:
            memory.note(album, Seen(frame, box, box, 0.9, torch.zeros(1, 64)))
            memory.learn(album)
            most = max(most, sum(entry.crop.nbytes + entry.mask.nbytes for entry in album.entries.values()))
        assert 0.7 * size.host < most <= size.host and size.device == 0


def test_a_batch_that_memory_does_not_hold_is_an_error_that_names_the_option(tiny_predictor, make_clip, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(tiny_predictor, "predict", full)
    with pytest.raises(UserError, match="--batch 5"):
        list(_track(tiny_predictor, [make_clip("a", 3)], batch=5))
