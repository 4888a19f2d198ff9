import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from lorat.evaluate.cli import video as cli_video
from lorat.evaluate.cli.video import video_command
from lorat.evaluate.pictures import colour_of
from lorat.evaluate.track.tracker import Targets, Tracker
from lorat.evaluate.video import options as video_options
from lorat.evaluate.video.footage import Footage, Shot
from lorat.evaluate.video.write import HEADER, write_tracks
from lorat.shards.pixels.geometry import xyxy_to_xywh
from tests.evaluate.conftest import SIZE, moving_box, picture, write_frames
from tests.evaluate.mistakes import one_line_error as refused
from tests.evaluate.small_videos import damage, read_video, times_of, write_video

BOX = ",".join(f"{number:g}" for number in xyxy_to_xywh(moving_box(0, 0)))
EXACT = ("--device", "cpu", "--dtype", "float32")
COMMAND = "from lorat.evaluate.cli.video import video_command; video_command()"


@pytest.fixture
def here(tmp_path, tiny_weights, monkeypatch):
    """A working folder with a run and a clip of 12 frames."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    tiny_weights.parents[2].rename("run")
    write_video(Path("clip.mp4"))
    return folder


def video(*arguments: str, box: str | None = BOX):
    given = [] if box is None else ["--box", box]
    return CliRunner().invoke(video_command, [*arguments, *given])


def tracked(*arguments: str, box: str | None = BOX):
    result = video(*arguments, "--run", "run", *EXACT, box=box)
    assert result.exit_code == 0, result.output
    return result


def rows(path: str = "clip-tracked.csv") -> list[dict[str, float]]:
    with Path(path).open() as file:
        return [
            {name: text if name == "state" else float(text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def names() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"run", "clip.mp4"}


def test_a_clip_becomes_a_video_and_a_csv_of_what_the_tracker_says(here):
    result = tracked("clip.mp4")
    assert names() == {"clip-tracked.mp4", "clip-tracked.csv"}
    for name in ("12 frames", "clip-tracked.mp4", "clip-tracked.csv"):
        assert name in result.stdout
    rate, pictures = read_video(Path("clip-tracked.mp4"))
    assert (rate, len(pictures)) == (pytest.approx(29.97, rel=1e-4), 12)
    assert max(pictures[0].shape) >= 640
    assert Path("clip-tracked.csv").read_text().splitlines()[0] == HEADER
    frames = read_video(Path("clip.mp4"))[1]
    tracker = Tracker.load(Path("run/checkpoints/epoch_0010/model.safetensors"), device="cpu", dtype="float32")
    tracker.start(frames[0], moving_box(0, 0))
    expected = [(*xyxy_to_xywh(moving_box(0, 0)), 1.0)]
    for frame in frames[1:]:
        box, score, _ = tracker.track(frame)
        expected.append((*xyxy_to_xywh(box), score))
    found = [[row[name] for name in ("x", "y", "w", "h", "score")] for row in rows()]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert [row["frame"] for row in rows()] == list(range(12))
    assert [row["time"] for row in rows()] == pytest.approx(np.arange(12) / 29.97, abs=1e-3)


def test_the_box_is_drawn_where_the_csv_says(here):
    tracked("clip.mp4", "--frames", "1")
    (picture,) = read_video(Path("clip-tracked.mp4"))[1]
    ratio = picture.shape[1] / SIZE[0]
    x1, y1, x2, y2 = (moving_box(0, 0) * ratio).astype(int)
    orange = np.abs(picture.astype(int) - (255, 140, 0)).sum(axis=2) < 150
    assert orange[(y1 + y2) // 2, x1 - 2 : x1 + 3].any()
    assert orange[y1 - 2 : y1 + 3, (x1 + x2) // 2].any()


def test_start_and_frames_choose_a_part(here):
    tracked("clip.mp4", "--start", "4", "--frames", "5", "--out", "o/part.mp4", "--csv", "b.csv")
    assert [row["frame"] for row in rows("b.csv")] == [4, 5, 6, 7, 8]
    assert rows("b.csv")[0]["time"] == pytest.approx(4 / 29.97, abs=1e-3)
    assert len(read_video(Path("o/part.mp4"))[1]) == 5


def test_from_and_to_choose_a_part_by_frames_or_seconds(here):
    tracked("clip.mp4", "--from", "3", "--to", "0.24s")
    assert [row["frame"] for row in rows()] == [3, 4, 5, 6, 7]
    tracked("clip.mp4", "--from", "0.1s", "--to", "6", "--overwrite")
    assert [row["frame"] for row in rows()] == [3, 4, 5, 6]


def test_several_objects_have_a_colour_and_rows_each_in_csv_and_json(here):
    boxes = ("--box", BOX, "--box", "60,30,20,20", "--box", "2:5,40,20,25")
    result = tracked("clip.mp4", *boxes, "--frames", "4", "--json", "boxes.jsonl", box=None)
    assert result.stdout.count("boxes.jsonl") == 1
    places = [(row["frame"], row["object"]) for row in rows()]
    assert places == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)]
    assert {row["state"] for row in rows() if row["frame"] == 0} == {"tracked"}
    lines = [json.loads(line) for line in Path("boxes.jsonl").read_text().splitlines()]
    flat = [
        [line["frame"], *each["box"], each["score"], each["object"], each["state"]]
        for line in lines
        for each in line["objects"]
    ]
    columns = ("frame", "x", "y", "w", "h", "score", "object", "state")
    assert flat == [[row[name] for name in columns] for row in rows()]
    picture = read_video(Path("clip-tracked.mp4"))[1][0].astype(int)
    for number in (1, 2):
        assert (np.abs(picture - colour_of(number)).sum(axis=2) < 150).sum() > 50


def test_a_box_in_another_notation_is_said_and_tracked(here):
    result = tracked("clip.mp4", "--frames", "1", box="60,30,90,70")
    assert "if these are corners: --box 60,30,30,40" in result.stderr
    look = video("clip.mp4", "--first-frame", "first.png", box="60,30,90,70")
    assert look.exit_code == 0 and "if these are corners: --box 60,30,30,40" in look.stderr


def test_frames_that_do_not_decode_keep_the_last_box_and_are_said(here):
    damage(write_video(Path("bad.avi")), [4, 5])
    result = tracked("bad.avi")
    assert "2 frames do not decode (the first: frame 4)" in result.stderr
    table = rows("bad-tracked.csv")
    assert [np.isnan(row["score"]) for row in table] == [i in (4, 5) for i in range(12)]
    for index in (4, 5):
        assert [table[index][n] for n in "xywh"] == [table[3][n] for n in "xywh"]
    assert len(read_video(Path("bad-tracked.mp4"))[1]) == 12


def test_a_folder_of_images_is_tracked_and_its_result_lies_beside_it(here):
    write_frames(Path("images.v2"), 5, 0)
    result = tracked("images.v2")
    assert "no frame rate" in result.stderr
    assert names() == {"images.v2", "images.v2-tracked.mp4", "images.v2-tracked.csv"}
    rate, pictures = read_video(Path("images.v2-tracked.mp4"))
    assert (rate, len(pictures)) == (25, 5)


def test_files_that_are_there_are_kept_until_overwrite(here):
    Path("clip-tracked.csv").write_text("mine")
    refused(video("clip.mp4", "--run", "run"), "clip-tracked.csv", "--overwrite")
    Path("clip-tracked.mp4").write_text("mine")
    refused(video("clip.mp4", "--run", "run"), "clip-tracked.mp4", "--overwrite")
    assert Path("clip-tracked.csv").read_text() == "mine"
    tracked("clip.mp4", "--frames", "2", "--overwrite")
    assert len(rows()) == len(read_video(Path("clip-tracked.mp4"))[1]) == 2


@pytest.mark.parametrize(
    ("box", "parts"),
    [
        ("1,2,3", ["--box 1,2,3", "x,y,w,h"]),
        ("a,b,c,d", ["--box a,b,c,d", "x,y,w,h"]),
        ("1,2,nan,4", ["--box 1,2,nan,4"]),
        ("10,10,0,20", ["--box 10,10,0,20", "above 0"]),
        ("96,10,20,20", ["--box 96,10,20,20", "outside the 96x72 frame"]),
        (None, ["--box", "--first-frame first.png"]),
    ],
)
def test_a_box_that_cannot_be_tracked_is_one_line(box, parts, here):
    refused(video("clip.mp4", "--run", "run", *EXACT, box=box), *parts)
    assert names() == set()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--camera 0"]),
        (["clip.mp4", "--camera", "0"], ["--camera 0"]),
        (["absent.mp4"], ["absent.mp4"]),
        (["run"], ["run", "no images"]),
        (["clip.mp4", "--start", "99"], ["clip.mp4", "--start"]),
        (["clip.mp4", "--start", "soon"], ["--start soon"]),
        (["clip.mp4", "--out", "a.mov"], ["a.mov", ".mp4", ".avi"]),
        (["clip.mp4", "--out", "a.mp4", "--csv", "a.mp4"], ["--csv"]),
        (["clip.mp4", "--out", "clip.mp4", "--overwrite"], ["--out clip.mp4", "itself"]),
        (["clip.mp4", "--weights", "w"], ["--run", "--weights"]),
        (["--camera", "63"], ["--camera 63"]),
        (["clip.mp4", "--to", "x"], ["--to x"]),
        (["clip.mp4", "other.mp4"], ["one source", "clip.mp4, other.mp4"]),
        (["clip.mp4", "--from", "4", "--box", "2:1,2,30,40"], ["--box 2:1,2,30,40", "before the first frame, 4"]),
        (["clip.mp4", "--from", "6", "--to", "3"], ["--to 3", "before --from 6"]),
        (["clip.mp4", "--from", "6", "--to", "0.1s"], ["--to 0.1s", "before the first frame, 6"]),
        (["clip.mp4", "--to", "5", "--box", "9:1,2,30,40"], ["--box 9:1,2,30,40", "after the end, --to 5"]),
        (["clip.mp4", "--frames", "3", "--restart", "4:1,2,30,40"], ["--restart 4:1", "after the end, --frames 3"]),
        (["clip.mp4", "--box", "900:1,2,30,40"], ["--box 900:1,2,30,40", "after the end, frame "]),
        (["clip.mp4", "--live"], ["--live/--no-live", "leave it out"]),
        (["clip.mp4", "--json", "clip-tracked.csv"], ["--json clip-tracked.csv", "--csv"]),
        (["ftp://me:secret@host/a.mp4"], ["ftp://host/a.mp4: addresses may begin with http"]),
        (["http://me:secret@127.0.0.1:9/a.mp4?key=secret"], ["http://127.0.0.1:9/a.mp4: cannot be opened"]),
    ],
)
def test_mistakes_end_in_one_line(arguments, parts, here):
    result = video(*arguments, "--run", "run")
    notes = result.stderr.count("connecting")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 + notes
    assert "secret" not in result.output and "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr
    assert names() == set()


def test_a_box_with_spaces_is_told_how_to_be_typed(here):
    said = ("--box 35 16 39 33: ", "--box 35,16,39,33")
    refused(video("clip.mp4", "--box", "35", "16", "39", "33", box=None), *said)
    refused(video("--box", "35", "16", "39", "33", "clip.mp4", box=None), *said)
    refused(video("--camera", "0", "--box", "35", "16", "39", "33", box=None), *said)


@pytest.mark.parametrize("option", ["--show", "--pick"])
def test_a_window_where_none_can_be_is_one_line(option, here, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    refused(video("clip.mp4", option, "--run", "run"), f"{option}: ")
    assert names() == set()


def test_weights_that_are_missing_end_in_one_line(here):
    refused(video("clip.mp4", "--weights", "w"), "w: no such weights file")
    refused(video("clip.mp4"), "--weights")


def test_the_first_frame_is_written_under_a_ruler_without_a_network(here):
    result = video("clip.mp4", "--start", "3", "--first-frame", "first.png", box=None)
    assert result.exit_code == 0, result.output
    assert "frame 3, 96 x 72 pixels: first.png" in result.stdout and "--box x,y,w,h" in result.stdout
    plain = cv2.imread("first.png")
    assert plain.shape[1] > 1000
    refused(video("clip.mp4", "--first-frame", "first.png"), "first.png", "--overwrite")
    assert video("clip.mp4", "--first-frame", "boxed.png").exit_code == 0
    assert not np.array_equal(cv2.imread("boxed.png"), plain)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["f.jpg"], ".png"), (["f.png", "--out", "a.mp4"], "--out"), (["f.png", "--run", "r"], "--run")],
)
def test_options_that_mean_nothing_for_the_first_frame_are_refused(arguments, part, here):
    refused(video("clip.mp4", "--first-frame", *arguments), part)


def test_a_disk_that_is_full_leaves_neither_file(here, monkeypatch):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        result = video("clip.mp4", "--run", "run", *EXACT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(result, "clip-tracked", "cannot be written")
    assert names() == set()


def live(count: int, pause: float, at_end=lambda: None) -> Footage:
    """A camera of 20 frames a second that gives a picture every `pause` seconds."""

    def shots():
        for index in range(count):
            yield Shot(index, index * pause, picture(index % 20, 0))
            time.sleep(pause)
        at_end()
        time.sleep(0.2)

    return Footage("camera 0", 20.0, None, True, shots())


def test_live_footage_is_written_as_fast_as_it_happened(here, monkeypatch):
    monkeypatch.setattr(video_options, "open_camera", lambda number, start: live(40, 0.25))
    tracked("--camera", "0", "--frames", "3")
    times = [row["time"] for row in rows("camera-0-tracked.csv")]
    times = [time - times[0] for time in times]
    assert len(times) == 3 and times[-1] >= 0.5
    assert times_of(Path("camera-0-tracked.mp4")) == pytest.approx(times, abs=1e-3)


def test_a_live_picture_stands_for_ten_seconds_at_most(here, monkeypatch):
    shots = (Shot(index, 60.0 * index, picture(index, 0)) for index in range(3))
    stalled = Footage("camera 0", 20.0, None, False, shots)  # all of them wait
    monkeypatch.setattr(video_options, "open_camera", lambda number, start: stalled)
    monkeypatch.setattr(
        cli_video,
        "write_tracks",
        lambda footage, *rest, **more: write_tracks(replace(footage, live=True), *rest, **more),
    )
    tracked("--camera", "0")
    assert [row["time"] for row in rows("camera-0-tracked.csv")] == [0, 60, 120]
    assert times_of(Path("camera-0-tracked.mp4")) == pytest.approx([0, 10, 20], abs=1e-3)


def test_ctrl_c_ends_a_camera_with_status_0_and_whole_files(here, monkeypatch):
    begun, start = threading.Event(), Targets.start

    def starts(*arguments, **more):
        begun.set()
        start(*arguments, **more)

    def press():
        assert begun.wait(120)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Targets, "start", starts)
    monkeypatch.setattr(video_options, "open_camera", lambda number, start: live(12, 0.05, press))
    result = tracked("--camera", "0")
    assert "stopped by Ctrl-C" in result.stdout
    assert len(read_video(Path("camera-0-tracked.mp4"))[1]) == len(rows("camera-0-tracked.csv")) >= 1


def test_ctrl_c_in_a_file_leaves_what_was_tracked_whole_and_status_130(here):
    write_video(Path("long.mp4"), frames=1000)
    command = [sys.executable, "-c", COMMAND, "long.mp4", "--box", BOX, "--run", "run", *EXACT]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(f.stat().st_size for f in Path().glob(".long-tracked.mp4.*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "stopped by Ctrl-C" in out
    assert 0 < len(read_video(Path("long-tracked.mp4"))[1]) == len(rows("long-tracked.csv")) < 1000
    assert names() == {"long.mp4", "long-tracked.mp4", "long-tracked.csv"}


def test_neither_opencv_nor_ffmpeg_say_anything(here):
    damage(write_video(Path("bad.avi")), [0, 4])
    Path("empty.mp4").touch()
    for source, lines in ((["bad.avi"], 1), (["empty.mp4"], 1), (["--camera", "63"], 1)):
        command = [sys.executable, "-c", COMMAND, *source, "--first-frame", f"{source[-1]}.png"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stderr.count("\n") == lines, done.stderr


@pytest.mark.parametrize("shape", ["grey", "four channels"])
def test_images_of_other_kinds_are_tracked_as_rgb(shape, here):
    Path("other").mkdir()
    for index in range(3):
        bgr = picture(index, 0)
        code = cv2.COLOR_BGR2GRAY if shape == "grey" else cv2.COLOR_BGR2BGRA
        cv2.imwrite(f"other/{index}.png", cv2.cvtColor(bgr, code))
    tracked("other")
    assert len(rows("other-tracked.csv")) == 3
