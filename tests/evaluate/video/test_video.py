import asyncio

import av
import numpy as np
import pytest

from lorat.evaluate.pictures import Outline, colour_of, draw_frame, draw_objects, draw_ruler
from lorat.evaluate.results.files import SequenceResult
from lorat.evaluate.video import write as video
from lorat.evaluate.video.window import fitting
from lorat.evaluate.video.write import video_file, write_tracking_video
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xyxy_to_xywh
from tests.evaluate.browser import CHROMIUM, open_tab
from tests.evaluate.small_videos import frames_of, read_video, times_of

FRAME = np.full((480, 640, 3), 90, dtype=np.uint8)
BOX = np.array([100.0, 100.0, 200.0, 150.0])
LINES = ("whole", "dashed", "corners")


@pytest.fixture
def clip_and_result(make_clip):
    clip = make_clip("a", 6)
    boxes = xyxy_to_xywh(clip.tracks[0].boxes + np.array([2.0, 1.0, 2.0, 1.0]))
    return clip, SequenceResult("a", boxes, np.linspace(1, 0.5, 6), np.full(6, 0.01))


def test_the_video_has_every_frame_up_to_a_limit_at_a_legible_size(clip_and_result, tmp_path):
    path = write_tracking_video(*clip_and_result, tmp_path / "out" / "a.mp4")
    frames = frames_of(path)
    assert len(frames) == 6 and max(frames[0].shape) >= 640
    assert [*(tmp_path / "out").iterdir()] == [path] == [tmp_path / "out" / "a.mp4"]
    assert len(frames_of(write_tracking_video(*clip_and_result, path, limit=2))) == 2


def test_the_line_below_gives_frame_score_and_overlap(clip_and_result, tmp_path, monkeypatch):
    texts = []
    real = video.draw_frame
    monkeypatch.setattr(video, "draw_frame", lambda *a: texts.append(a[3]) or real(*a))
    write_tracking_video(*clip_and_result, tmp_path / "a.mp4")
    overlap = (20 * 16) / (2 * 22 * 17 - 20 * 16)  # boxes of 22 x 17, moved by (2, 1)
    assert texts[0] == f"frame 1/6   score 1.00   overlap {overlap:.2f}"


def test_frames_that_do_not_decode_are_left_out(clip_and_result, tmp_path):
    clip, result = clip_and_result
    clip.frames[2].write_bytes(b"")
    assert len(frames_of(write_tracking_video(clip, result, tmp_path / "a.mp4"))) == 5
    for path in clip.frames:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no image decodes"):
        write_tracking_video(clip, result, tmp_path / "a.mp4")


def test_without_the_h264_encoder_the_video_is_vp9_in_webm(clip_and_result, tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    path = write_tracking_video(*clip_and_result, tmp_path / "a.mp4")
    assert len(frames_of(path)) == 6
    assert [p for p in tmp_path.iterdir() if p.is_file()] == [path] == [tmp_path / "a.webm"]


def test_boxes_are_drawn_where_they_are_and_empty_ones_are_not():
    picture = draw_frame(FRAME, BOX, np.array([300.0, 200.0, 400.0, 260.0]), "x")
    orange, green = (255, 140, 0), (60, 220, 90)
    assert np.abs(picture[125, 100].astype(int) - orange).max() < 60
    assert np.abs(picture[230, 300].astype(int) - green).max() < 60
    assert (picture[125, 150] == 90).all()
    empty = draw_frame(FRAME, np.array([0.0, 0.0, 0.0, 50.0]), None, "x")
    assert (empty[:480] == 90).all()


@pytest.mark.parametrize("size", [(31, 17), (640, 480), (97, 1283), (4001, 2251)])
def test_pictures_have_even_sides(size):
    frame = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    picture = draw_frame(frame, np.array([1.0, 1.0, 9.0, 9.0]), None, "frame 1/2")
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0


def _ramp(count: int) -> list[np.ndarray]:
    return [np.full((48, 64, 3), 10 * index, dtype=np.uint8) for index in range(count)]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
def test_a_video_has_its_name_only_when_it_is_whole(suffix, tmp_path):
    path = tmp_path / "new" / f"a{suffix}"
    with video_file(path, 12.5) as write:
        for index, picture in enumerate(_ramp(5)):
            write(picture, index / 12.5)
            assert not path.exists()
    rate, frames = read_video(path)
    assert (rate, len(frames)) == (12.5, 5)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
def test_pictures_stand_as_long_as_they_are_to(suffix, tmp_path):
    path, times = tmp_path / f"a{suffix}", [0.0, 0.05, 0.1, 0.6, 3.0, 3.05]
    with video_file(path, 20) as write:
        for picture, seconds in zip(_ramp(6), times, strict=True):
            write(picture, seconds)
    assert times_of(path) == pytest.approx(times, abs=1e-3)
    with av.open(str(path)) as file:
        assert file.duration / av.time_base == pytest.approx(3.1, abs=0.01)


def test_an_mp4_has_its_index_in_front_so_that_it_plays_while_it_is_fetched(tmp_path):
    path = tmp_path / "a.mp4"
    with video_file(path, 25) as write:
        for index, picture in enumerate(_ramp(5)):
            write(picture, index / 25)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as file:
        assert file.streams.video[0].format.name == "yuv420p"


def _coloured(picture, colour, row=None):
    near = np.abs(picture[:480].astype(int) - colour).sum(axis=2) < 60
    return near.sum() if row is None else near[row].sum()


def test_objects_have_a_colour_and_a_word_each():
    boxes = [BOX + shift for shift in (0, 120, 240)]
    picture = draw_objects(FRAME, [Outline(n, box, str(n)) for n, box in enumerate(boxes, start=1)], "x")
    colours = [colour_of(number) for number in (1, 2, 3)]
    assert len(set(colours)) == 3
    for box, colour in zip(boxes, colours, strict=True):
        assert np.abs(picture[int(box[1] + 25), int(box[0])].astype(int) - colour).max() < 60


def test_an_unsure_box_is_dashed_and_a_lost_one_has_grey_corners():
    whole, dashed, corners = (draw_objects(FRAME, [Outline(1, BOX, "", line)], "x") for line in LINES)
    orange, full = colour_of(1), _coloured(draw_objects(FRAME, [Outline(1, BOX)], "x"), colour_of(1))
    assert _coloured(whole, orange) == full
    assert 0.3 * full < _coloured(dashed, orange) < 0.8 * full
    assert _coloured(corners, orange) == 0
    assert (corners[100, 105] > 140).all() and (corners[100, 150] == 90).all()


def test_an_error_leaves_no_video_and_what_was_there(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("mine")
    with pytest.raises(ZeroDivisionError), video_file(path, 25) as write:
        write(_ramp(1)[0], 0.0)
        raise ZeroDivisionError
    assert path.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    with video_file(path, 25) as write:
        write(_ramp(1)[0], 0.0)
    assert len(frames_of(path)) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"a\.mp4: cannot be written"),
        video_file(tmp_path / "file" / "a.mp4", 25) as write,
    ):
        write(_ramp(1)[0], 0.0)


@pytest.mark.parametrize("rate", [0.5, 7.123456, 23.976, 29.97, 59.94, 120.0048, 240])
def test_frame_rates_are_kept(rate, tmp_path):
    path = tmp_path / "a.mp4"
    with video_file(path, rate) as write:
        for index, picture in enumerate(_ramp(3)):
            write(picture, index / rate)
    assert read_video(path)[0] == pytest.approx(rate, rel=1e-4)


@pytest.mark.skipif(not CHROMIUM, reason="no chromium command here")
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_browser_plays_the_video(clip_and_result, tmp_path, monkeypatch, suffix):
    if suffix == ".webm":
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    path = write_tracking_video(*clip_and_result, tmp_path / "a.mp4")
    page = tmp_path / "page.html"
    page.write_text(f"<video src='{path.name}' muted autoplay></video>")

    async def play():
        async with open_tab(page) as tab:
            video = "document.querySelector('video')"
            for _ in range(600):
                if await tab.value(f"{video}.ended || {video}.error !== null"):
                    break
                await asyncio.sleep(0.1)
            names = ("readyState", "duration", "currentTime", "videoWidth", "videoHeight", "ended")
            return [await tab.value(f"{video}.{name}") for name in names]

    state, duration, shown, width, height, ended = asyncio.run(play())
    assert state >= 2 and ended
    assert duration == shown == pytest.approx(6 / 25, abs=0.01)
    assert (height, width) == frames_of(path)[0].shape[:2]


@pytest.mark.parametrize(
    ("size", "scale"), [((96, 72), 640 / 96), ((640, 480), 1), ((3200, 900), 0.5), ((40, 1800), 0.5)]
)
def test_a_picture_fits_a_window_that_can_be_drawn_in(size, scale):
    picture, found = fitting(np.zeros((size[1], size[0], 3), np.uint8))
    assert found == pytest.approx(scale)
    assert picture.shape[:2] == (round(size[1] * scale), round(size[0] * scale))


def test_only_the_picture_with_true_boxes_has_a_legend():
    plain = draw_objects(FRAME, [Outline(1, BOX)], "frame 1")
    assert (plain[480:, 400:] == plain[-1, -1]).all()
    assert (draw_frame(FRAME, BOX, None, "frame 1")[480:, 400:] != plain[480:, 400:]).any()


@pytest.mark.parametrize("size", [(1, 1), (31, 17), (640, 360), (97, 1283), (4001, 2251)])
def test_the_ruler_has_its_lines_at_the_frames_pixels(size):
    frame = np.full((size[1], size[0], 3), 90, dtype=np.uint8)
    ruled = draw_ruler(frame)
    inside = ruled[26:-34, 54:].astype(int)
    assert (inside[:, 0] > 120).all()
    assert (inside[0, :90] > 120).all()  # a margin makes up for what a narrow frame lacks
    if size == (640, 360):  # enlarged to 1000 pixels, where 50 of the frame's are 78.125
        row = inside[40, :, 0]
        assert [x for x in range(1000) if row[x] > 150] == [int(78.125 * k) for k in range(13)]


def test_the_ruler_shows_the_box():
    frame = np.full((360, 640, 3), 90, dtype=np.uint8)
    ruled = draw_ruler(frame, [np.array([100.0, 120.0, 180.0, 184.0])]).astype(int)
    x, y = 54 + round(180 * 1.5625), 26 + round(155 * 1.5625)
    assert np.abs(ruled[y, x - 2 : x + 3] - (255, 140, 0)).sum(axis=1).min() < 150
