"""A wait that takes long is told once, whoever waits, and a store that is silent is not waited for longer than said."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import children, file_size, locate, read_bytes, read_range, remove_file, write_json
from lorat.shards.base.waiting import Note, made_one, seconds_in, wait_for, waiting
from tests.conftest import set_s3


@pytest.fixture(autouse=True)
def impatient(monkeypatch, caplog) -> None:
    """Waits are told after a moment."""
    monkeypatch.setenv("LORAT_PATIENCE", "0.2")
    monkeypatch.setattr("lorat.shards.base.waiting._WATCH._process", 0)  # its thread knows the time since it began
    monkeypatch.setattr(logging.getLogger("lorat"), "propagate", True)


@pytest.fixture
def silent(monkeypatch) -> Iterator[str]:
    """A bucket of a server that takes connections and says nothing."""
    pytest.importorskip("s3fs")
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            with pytest.raises(OSError):
                while True:
                    taken.append(server.accept()[0])

        thread = threading.Thread(target=take)
        thread.start()
        set_s3(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
        monkeypatch.setenv("LORAT_STORE_TIMEOUT", "1")
        yield "s3://bucket"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in taken:
            each.close()


def test_a_silent_store_is_told_once_and_given_up_after_its_limit_however_often_its_client_tries(silent, caplog):
    place = locate(silent) / "x"
    calls = [read_bytes, file_size, children, remove_file, lambda p: read_range(p, 5, 9), lambda p: write_json(p, 1)]
    for call in calls:
        caplog.clear()
        begin = time.monotonic()
        with pytest.raises(UserError, match=r"s3://bucket/x: cannot be .* within 1 s; --store-timeout may be longer"):
            call(place)
        assert time.monotonic() - begin < 3
        (said,) = (record.message for record in caplog.records if "waiting" in record.message)
        assert said.startswith("waiting for s3://bucket/x since ")


def test_credentials_that_are_missing_are_not_waited_for(silent, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(UserError, match=r"Unable to locate credentials\); give .*AWS_ACCESS_KEY_ID") as refused:
        read_bytes(locate(silent) / "x")
    assert "run again" not in refused.value.message


def test_a_short_wait_and_one_that_another_waits_for_are_not_told(caplog):
    with waiting("a moment"):
        pass
    note, texts = Note(), []

    def work() -> None:
        note.take()
        with waiting("a shard"), waiting(lambda: "a row of it"):
            texts.append(note.text)
            time.sleep(0.6)
        texts.append(note.text)
        made_one()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert texts == ["a row of it", ""] and (note.made, note.process) == (1, os.getpid())
    assert not [record for record in caplog.records if "waiting" in record.message]


def test_a_note_is_read_across_a_fork_and_holds_only_so_much():
    note = Note()
    if (child := os.fork()) == 0:
        note.take()
        with waiting("é" * 3000):
            os._exit(0)
    os.waitpid(child, 0)
    assert note.process == child and set(note.text) <= {"é", "\ufffd"} and len(note.text) == 500


def test_ctrl_c_is_heard_while_what_is_waited_for_is_deaf():
    begin, main = time.monotonic(), threading.get_ident()
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        wait_for(threading.Event().wait, "what never comes")
    assert time.monotonic() - begin < 5
    assert wait_for(lambda: 7, "a number") == 7
    with pytest.raises(UserError, match="refused"):
        wait_for(_refuse, "a refusal")


def _refuse() -> int:
    raise UserError("refused")


@pytest.mark.parametrize("text", ["soon", "0", "inf", "-1"])
def test_a_mistyped_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv("LORAT_STORE_TIMEOUT", text)
    with pytest.raises(UserError, match=rf"\$LORAT_STORE_TIMEOUT is '{text}'"):
        seconds_in("LORAT_STORE_TIMEOUT", 120.0)
