"""Addresses, read from a real server on this machine."""

import http.server
import itertools
import threading
import time
from contextlib import closing

import cv2
import pytest

from lorat.evaluate.video.container import shown_url
from lorat.evaluate.video.footage import first_shot, read_ahead
from lorat.evaluate.video.read import open_footage
from lorat.shards.base.errors import UserError
from tests.evaluate.conftest import SIZE, picture
from tests.evaluate.small_videos import write_video

BEFORE_SILENCE = 60  # frames of a camera that falls silent


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serve a file, ``/clip.mp4``; motion JPEG, ``/camera``, ``/falls-silent`` and ``/hangs-up``; ``/deaf``, which
    never answers; and a part of the file, ``/cut-off.avi``.
    """
    clip = write_video(tmp_path_factory.mktemp("served") / "clip.mp4").read_bytes()
    long = write_video(tmp_path_factory.mktemp("served") / "long.avi", frames=60).read_bytes()
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/deaf"):
                over.wait(60)
                return
            self.send_response(200)
            if self.path.startswith("/cut-off"):  # in the middle of a file
                self.send_header("Content-Length", str(len(long)))
                self.end_headers()
                self.wfile.write(long[: len(long) // 2])
                return
            if self.path.startswith("/clip.mp4"):
                self.send_header("Content-Length", str(len(clip)))
                self.end_headers()
                self.wfile.write(clip)
                return
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for number in itertools.count():
                if "hangs-up" in self.path and number == BEFORE_SILENCE:
                    return
                if over.wait(0.01) or ("silent" in self.path and number == BEFORE_SILENCE):
                    break
                data = cv2.imencode(".jpg", picture(number % 20, 0)[..., ::-1])[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + data + b"\r\n")
                except OSError:  # the reader has gone
                    return
            over.wait(60)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.daemon_threads = True
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{serving.server_port}"
        over.set()
        serving.shutdown()


def test_a_file_at_an_address_is_read_frame_by_frame(server):
    footage = open_footage(f"http://{server}/clip.mp4")
    assert (footage.live, footage.count, footage.name) == (False, 12, f"http://{server}/clip.mp4")
    assert [shot.number for shot in footage.shots] == [*range(12)]


def test_of_a_stream_the_newest_frame_is_taken_and_numbers_tell_of_those_that_passed(server):
    with closing(open_footage(f"http://{server}/camera")) as footage, closing(read_ahead(footage)) as shots:
        assert footage.live and footage.count is None
        first, image = first_shot(footage, shots)
        time.sleep(0.7)
        later = next(shots)
    assert image.shape == (SIZE[1], SIZE[0], 3)
    assert later.number > first.number + 10
    assert later.time - first.time == pytest.approx(0.7, abs=0.4)


def test_every_frame_of_a_stream_is_taken_if_it_is_not_to_be_live(server):
    with closing(open_footage(f"http://{server}/camera", live=False)) as footage, closing(read_ahead(footage)) as shots:
        numbers = [shot.number for shot in itertools.islice(shots, 5) if not time.sleep(0.1)]
    assert numbers == [*range(5)]


def test_a_stream_that_falls_silent_is_told_and_has_ended_after_a_limit(server, said):
    with closing(open_footage(f"http://me:secret@{server}/falls-silent", silence=1.0)) as footage:
        shots = list(read_ahead(footage, silence=1.0))
    assert shots and shots[-1].number < BEFORE_SILENCE
    *_, told, ended = (line for line in said.messages if "no frame for" in line)
    assert "waiting for up to 1 s" in told and "taken as its end" in ended
    assert "secret" not in said.text


def test_what_ends_in_the_middle_says_so_and_why(server, said):
    footage = open_footage(f"http://{server}/cut-off.avi")
    count = len(list(footage.shots))
    assert footage.count == 60 and footage.far and count < 60
    assert f"http://{server}/cut-off.avi: ends after {count} of the 60 frames that it says" in said.messages[-1]
    with closing(open_footage(f"http://{server}/hangs-up")) as stream:
        assert list(stream.shots)
    assert said.messages[-1].startswith(f"http://{server}/hangs-up: has ended")


def test_a_wish_to_stop_is_heard_while_a_stream_is_silent(server):
    deadline = time.monotonic() + 3
    with closing(open_footage(f"http://{server}/falls-silent")) as footage:
        shots = list(read_ahead(footage, lambda: time.monotonic() > deadline))
    assert shots and time.monotonic() < deadline + 5


def test_what_does_not_answer_is_one_line(server):
    with pytest.raises(UserError, match=rf"http://{server}/deaf: cannot be opened \(no answer for 0.5 s\)"):
        open_footage(f"http://me:secret@{server}/deaf?key=secret", silence=0.5)


def test_an_address_is_shown_without_what_may_be_secret():
    assert shown_url("rtsp://me:se@cret@host:554/a/b?token=1") == "rtsp://host:554/a/b"
