import itertools
import logging
import sys
import time
from contextlib import closing
from dataclasses import replace
from unittest.mock import MagicMock

import av
import cv2
import numpy as np
import pytest

from lorat.evaluate.video import read as module
from lorat.evaluate.video.container import NoPyAV
from lorat.evaluate.video.footage import Footage, Place, Shot, first_shot, read_ahead
from lorat.evaluate.video.read import open_camera, open_footage
from lorat.evaluate.video.write import video_file
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import Range16, decode, encode
from tests.evaluate.conftest import SIZE, picture, write_frames
from tests.evaluate.small_videos import cut, damage, read_video, slow_down, turn, write_video
from tests.shards.pixels.test_jpeg import exif, with_exif


@pytest.fixture
def said(said):
    said.set_level(logging.INFO, "lorat")
    return lambda: said.messages


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "b-frames.mkv", "vp9.webm"])
def test_every_frame_comes_in_order_with_its_time_as_opencv_reads_it(name, tmp_path, said):
    path = write_video(tmp_path / name)
    footage = open_footage(path)
    shots = list(footage.shots)
    assert (footage.count, footage.live) == (12, False)
    assert footage.rate == pytest.approx(29.97)
    assert [shot.number for shot in shots] == list(range(12))
    assert [shot.time for shot in shots] == pytest.approx(np.arange(12) / 29.97, abs=1e-3)
    for shot, frame in zip(shots, read_video(path)[1], strict=True):
        np.testing.assert_array_equal(shot.image, frame)
    assert not said()


@pytest.mark.parametrize("name", ["2026-11-30T12:30:05.mp4", "12:30.mp4", "file:a.mp4"])
def test_a_name_with_a_colon_is_no_address(name, tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", frames=2).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    footage = open_footage(name)
    assert (footage.name, len(list(footage.shots))) == (name, 2)


@pytest.mark.parametrize(("start", "index"), [("0", 0), ("5", 5), ("0.2s", 6), ("0.21s", 7)])
def test_reading_begins_at_a_frame_or_a_time(start, index, tmp_path):
    path = write_video(tmp_path / "a.mp4", fps=30)
    shot, image = first_shot(open_footage(path, Place.parse(start)))
    assert (shot.number, shot.time) == (index, pytest.approx(index / 30))
    np.testing.assert_array_equal(image, read_video(path)[1][index])


@pytest.mark.parametrize("text", ["", "-1", "x", "2.5", "1:20", "3 s"])
def test_a_start_that_is_neither_frame_nor_seconds_is_refused(text):
    with pytest.raises(UserError, match="--start"):
        Place.parse(text)


def test_a_start_after_the_end_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"a\.mp4: no frame to begin with.*--start"):
        first_shot(open_footage(path, Place(12)))


def test_frames_that_do_not_decode_keep_their_place_and_time(tmp_path):
    path = write_video(tmp_path / "a.avi", fps=25)
    damage(path, [4, 5, 9])
    shots = list(open_footage(path).shots)
    assert [shot.number for shot in shots if shot.image is None] == [4, 5, 9]
    assert [shot.time for shot in shots] == pytest.approx(np.arange(12) / 25, abs=1e-3)


def test_footage_begins_at_its_first_frame_that_decodes_and_says_so(tmp_path, said):
    path = write_video(tmp_path / "a.avi")
    damage(path, [0, 1])
    assert first_shot(open_footage(path))[0].number == 2
    assert ["2 frames do not decode" in line for line in said()] == [True]


def test_a_file_that_ends_early_says_so(tmp_path, said):
    path = write_video(tmp_path / "a.avi", frames=20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shots = list(open_footage(path).shots)
    assert 5 < len(shots) < 15
    assert said() == [f"{path}: ends after {len(shots)} of the 20 frames that it says"]


def test_where_the_rate_varies_times_are_the_files(tmp_path):
    path = write_video(tmp_path / "a.mp4", fps=30)
    slow_down(path, 12, first=6)
    shots = list(open_footage(path).shots)
    expected = np.cumsum([0, *[1 / 30] * 6, *[0.1] * 5])
    assert [shot.time for shot in shots] == pytest.approx(expected, abs=1e-3)


def test_a_video_that_does_not_say_its_rate_gets_25(tmp_path, said):
    footage = open_footage(write_video(tmp_path / "a.avi", fps=1000))
    assert footage.rate == 25
    assert said() == [f"{tmp_path / 'a.avi'}: does not say its frame rate; 25 a second are assumed"]


def test_a_video_is_turned_as_its_metadata_asks(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    upright = read_video(path)[1][0]
    turn(path)
    _, image = first_shot(open_footage(path))
    assert image.shape == (SIZE[0], SIZE[1], 3)
    np.testing.assert_array_equal(image, np.rot90(upright, -1))


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    ],
)
def test_every_turn_and_mirroring_is_as_players_show_it(matrix, shown, tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=1)
    plain = first_shot(open_footage(path))[1]
    turn(path, *matrix)
    np.testing.assert_array_equal(first_shot(open_footage(path))[1], shown(plain))


def test_a_video_cut_without_encoding_is_whole(tmp_path, said):
    path = cut(write_video(tmp_path / "a.mp4", frames=50, fps=25), 0.8, tmp_path / "b.mp4")
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames == 50
    footage = open_footage(path)
    shots = list(footage.shots)
    assert len(shots) == footage.count == 30 and not said()
    assert [shot.time for shot in shots] == pytest.approx(np.arange(30) / 25, abs=1e-3)


def test_an_mp4_that_ends_early_says_so_too(tmp_path, said):
    path = tmp_path / "a.mp4"
    with video_file(path, 25) as write:
        for index in range(100):
            write(picture(index % 20, 0), index / 25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shots = list(open_footage(path).shots)
    assert 10 < len(shots) < 90
    assert said() == [f"{path}: ends after {len(shots)} of the 100 frames that it says"]


def test_a_folder_gives_its_images_in_natural_order(tmp_path, said):
    write_frames(tmp_path / "f", 11, 0)
    for index in range(11):
        (tmp_path / f"f/{index + 1:08d}.jpg").rename(tmp_path / f"f/a{index + 1}.jpg")
    (tmp_path / "f/a3.jpg").write_bytes(b"no image")
    (tmp_path / "f/notes.txt").touch()
    footage = open_footage(tmp_path / "f", Place(1))
    shots = list(footage.shots)
    assert (footage.count, footage.rate) == (11, 25)
    assert [shot.number for shot in shots] == list(range(1, 11))
    assert [shot.number for shot in shots if shot.image is None] == [2]
    assert shots[-1].time == pytest.approx(10 / 25)
    np.testing.assert_array_equal(shots[-1].image, decode(encode(picture(10, 0), 95)))
    assert any("no frame rate" in line for line in said())


def test_without_pyav_images_are_read_and_a_video_names_the_extra(tmp_path, monkeypatch):
    write_frames(tmp_path / "images", 2, 0)
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(list(open_footage(tmp_path / "images").shots)) == 2
    with pytest.raises(NoPyAV, match=r"pip install 'lorat\[video\]'"):
        open_footage(path)


def test_a_folder_of_other_images_says_which_kinds_are_read(tmp_path):
    for suffix in ("webp", "tif"):
        cv2.imwrite(str(tmp_path / f"a.{suffix}"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"can be read \(\.jpg, \.jpeg, \.png, \.bmp\)"):
        open_footage(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"not a video at all", "folder"])
def test_what_is_no_footage_is_refused_by_name(content, tmp_path):
    path = tmp_path / "a.mp4"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4"):
        first_shot(open_footage(path))


def test_a_camera_that_is_not_there_is_one_line(capfd):
    with pytest.raises(UserError, match=r"--camera 63: cannot be opened"):
        open_camera(63)
    assert capfd.readouterr().err == ""


def test_a_camera_is_read_until_it_gives_nothing_any_more(tmp_path, monkeypatch, said):
    path = write_video(tmp_path / "a.avi", frames=6)
    damage(path, [3])
    real = cv2.VideoCapture
    monkeypatch.setattr(module.cv2, "VideoCapture", lambda number: real(str(path)))
    footage = open_camera(0)
    shots = list(footage.shots)
    assert (footage.live, footage.count) == (True, None)
    assert [shot.number for shot in shots] == [0, 1, 2, 4, 5]
    assert all(shot.image is not None for shot in shots)  # silence is not taken for frames
    assert said() == ["camera 0: gives no frames any more; it has ended"]
    assert shots[0].time == 0
    assert all(a.time <= b.time for a, b in itertools.pairwise(shots))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
def test_grey_and_four_channels_of_a_camera_become_rgb(shape, monkeypatch):
    frame = np.zeros(shape, dtype=np.uint8)
    frame[..., :1] = 200  # blue, or grey
    camera = MagicMock(**{"read.return_value": (True, frame), "get.return_value": 25.0})
    monkeypatch.setattr(module.cv2, "VideoCapture", lambda number: camera)
    _, rgb = first_shot(open_camera(0))
    grey = len(shape) == 2 or shape[2] == 1
    assert rgb.shape == (4, 6, 3) and rgb[0, 0].tolist() == ([200] * 3 if grey else [0, 0, 200])


def _counting(live: bool, count: int, pause: float = 0.0, made: list[int] | None = None) -> Footage:
    def shots():
        for index in range(count):
            time.sleep(pause)
            if made is not None:
                made.append(index)
            yield Shot(index, index * pause, np.zeros((2, 2, 3), np.uint8))

    return Footage("counted", 25.0, None, live, shots())


def test_reading_ahead_gives_all_frames_of_a_file_but_only_a_few_ahead():
    made: list[int] = []
    with closing(read_ahead(_counting(False, 100, made=made))) as shots:
        assert next(shots).number == 0
        time.sleep(0.2)
        assert len(made) <= 5
        assert [shot.number for shot in shots] == list(range(1, 100))


def test_of_live_footage_the_newest_frame_is_taken():
    with closing(read_ahead(_counting(True, 10_000, pause=0.002))) as shots:
        before = next(shots).number
        time.sleep(0.3)
        assert next(shots).number > before + 10


def test_an_error_while_reading_comes_where_frames_are_taken():
    def shots():
        yield Shot(0, 0.0, None)
        raise UserError("the disk is gone")

    with closing(read_ahead(Footage("broken", 25.0, None, False, shots()))) as taken:
        next(taken)
        with pytest.raises(UserError, match="the disk is gone"):
            next(taken)


def test_a_camera_that_hangs_does_not_keep_one_from_stopping():
    deadline = time.monotonic() + 0.2
    assert list(read_ahead(_counting(True, 2, pause=1.0), lambda: time.monotonic() > deadline)) == []


@pytest.mark.parametrize("live", [True, False])
def test_what_is_far_may_not_be_silent_for_ever(live, said):
    shots = _counting(live, 2, pause=0.8)
    assert list(read_ahead(replace(shots, far=not live), silence=0.2)) == []
    assert "taken as its end" in said()[-1]


COUNTS = 7000 + 4 * picture(0, 0)[..., 0].astype(np.uint16)


@pytest.mark.parametrize("name", ["frames", "a.mkv"])
@pytest.mark.parametrize(("text", "low"), [("7000,8020", 7000), ("auto", 7000 + 4 * 60), (None, 0)])
def test_16_bits_a_pixel_are_told_or_stretched_alike_in_all_frames(name, text, low, tmp_path, said):
    path = write_counts(tmp_path / name, [COUNTS, COUNTS + 8])
    shots = list(open_footage(path, range16=text and Range16.parse(text)).shots)
    first, second = (shot.image.astype(int)[..., 0] for shot in shots)
    told = [line for line in said() if "only the upper 8" in line and "--range16" in line and str(path) in line]
    if text is None:
        assert len(told) == 1 and first.max() - first.min() < 5
    else:
        assert not told and not any("one colour" in line for line in said())
        assert shots[0].image.shape == (*COUNTS.shape, 3)
        assert np.ptp(first) > 200
        inside = (first > 5) & (first < 245)
        assert (second >= first).all() and 1 <= (second - first)[inside].mean() < 4


def write_counts(path, frames):
    if not path.suffix:
        path.mkdir()
        for number, counts in enumerate(frames):
            cv2.imwrite(str(path / f"{number}.png"), counts)
        return path
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "gray16le"
        for counts in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(counts, format="gray16le")))
        file.mux(stream.encode())
    return path


def test_a_range_for_footage_of_8_bits_changes_nothing_and_is_told(tmp_path, said):
    path, folder = write_video(tmp_path / "a.mp4"), tmp_path / "f"
    write_frames(folder, 2, 0)
    for each in (path, folder):
        plain, ranged = (first_shot(open_footage(each, range16=how))[1] for how in (None, Range16(0, 100)))
        np.testing.assert_array_equal(plain, ranged)
        assert sum(str(each) in line and "--range16" in line for line in said()) == 1


def test_images_that_ask_to_be_turned_are_told_once(tmp_path, said):
    write_frames(tmp_path / "f", 3, 0)
    for file in (tmp_path / "f").iterdir():
        file.write_bytes(with_exif(file.read_bytes(), exif("MM", 6)))
    assert len(list(open_footage(tmp_path / "f").shots)) == 3
    assert [line for line in said() if "EXIF 6" in line] == [
        f"{tmp_path / 'f' / '00000001.jpg'}: asks to be turned (EXIF 6); images are used as stored"
    ]
