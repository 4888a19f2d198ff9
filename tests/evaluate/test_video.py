from __future__ import annotations

import cv2
import numpy as np
import pytest

from lorat.evaluate import video
from lorat.evaluate.results import SequenceResult
from lorat.evaluate.video import draw_frame, write_tracking_video
from lorat.shards.errors import UserError
from lorat.shards.geometry import xyxy_to_xywh


@pytest.fixture
def clip_and_result(make_clip):
    clip = make_clip("a", 6)
    boxes = xyxy_to_xywh(clip.tracks[0].boxes + np.array([2.0, 1.0, 2.0, 1.0]))
    return clip, SequenceResult("a", boxes, np.linspace(1, 0.5, 6), np.full(6, 0.01))


def _frames(path):
    reader = cv2.VideoCapture(str(path))
    frames = []
    while True:
        read, frame = reader.read()
        if not read:
            return frames
        frames.append(frame)


def test_the_video_has_every_frame_at_a_legible_size(clip_and_result, tmp_path):
    path = write_tracking_video(*clip_and_result, tmp_path / "out" / "a.mp4")
    frames = _frames(path)
    assert path == tmp_path / "out" / "a.mp4"
    assert len(frames) == 6
    assert max(frames[0].shape) >= 640
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_the_line_below_gives_frame_score_and_overlap(clip_and_result, tmp_path, monkeypatch):
    texts = []
    real = video.draw_frame
    monkeypatch.setattr(video, "draw_frame", lambda *a: texts.append(a[3]) or real(*a))
    write_tracking_video(*clip_and_result, tmp_path / "a.mp4")
    overlap = (20 * 16) / (2 * 22 * 17 - 20 * 16)  # boxes of 22 x 17, moved by (2, 1)
    assert texts[0] == f"frame 1/6   score 1.00   overlap {overlap:.2f}"


def test_a_limit_leaves_out_the_rest(clip_and_result, tmp_path):
    path = write_tracking_video(*clip_and_result, tmp_path / "a.mp4", limit=2)
    assert len(_frames(path)) == 2


def test_frames_that_do_not_decode_are_left_out(clip_and_result, tmp_path):
    clip, result = clip_and_result
    clip.frames[2].write_bytes(b"")
    assert len(_frames(write_tracking_video(clip, result, tmp_path / "a.mp4"))) == 5
    for path in clip.frames:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no image decodes"):
        write_tracking_video(clip, result, tmp_path / "a.mp4")


def test_without_the_mp4_encoder_the_video_is_an_avi(clip_and_result, tmp_path, monkeypatch):
    real = cv2.VideoWriter

    class OnlyJpeg:
        fourcc = staticmethod(real.fourcc)

        def __new__(cls, path, code, fps, size):
            return real(path, code, fps, size) if code == real.fourcc(*"MJPG") else real()

    monkeypatch.setattr(video.cv2, "VideoWriter", OnlyJpeg)
    path = write_tracking_video(*clip_and_result, tmp_path / "a.mp4")
    assert path == tmp_path / "a.avi"
    assert len(_frames(path)) == 6


def test_boxes_are_drawn_where_they_are_and_empty_ones_are_not():
    frame = np.full((480, 640, 3), 90, dtype=np.uint8)
    box = np.array([100.0, 100.0, 200.0, 150.0])
    picture = draw_frame(frame, box, np.array([300.0, 200.0, 400.0, 260.0]), "x")
    orange, green = (255, 140, 0), (60, 220, 90)
    assert np.abs(picture[125, 100].astype(int) - orange).max() < 60
    assert np.abs(picture[230, 300].astype(int) - green).max() < 60
    assert (picture[125, 150] == 90).all()
    empty = draw_frame(frame, np.array([0.0, 0.0, 0.0, 50.0]), None, "x")
    assert (empty[:480] == 90).all()


@pytest.mark.parametrize("size", [(31, 17), (640, 480), (97, 1283), (4001, 2251)])
def test_pictures_have_even_sides(size):
    frame = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    picture = draw_frame(frame, np.array([1.0, 1.0, 9.0, 9.0]), None, "frame 1/2")
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
