import errno
import os
import threading

import pytest

from lorat.shards.base import behind, disk
from lorat.shards.base.behind import written_behind
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import write_together


def test_files_that_wait_are_written_together_in_their_order(tmp_path, monkeypatch):
    """The first one's write lasts until two more are there: they cost one flush together."""
    written, first, both = [], threading.Event(), threading.Event()

    def recorded(files):
        written.append([path.name for path in files])
        if not first.is_set():
            first.set()
            assert both.wait(10)
        write_together(files)

    monkeypatch.setattr(behind, "write_together", recorded)
    with written_behind() as results:
        results.add({tmp_path / "a": b"1"})
        assert first.wait(10)
        results.add({tmp_path / "b": b"2", tmp_path / "c": b"3"})
        results.add({tmp_path / "d": b"4"})
        both.set()
    assert [names for names in written if names] == [["a"], ["b", "c", "d"]]
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"1", b"2", b"3", b"4"]


def test_a_refused_write_ends_the_work_with_the_files_name(tmp_path):
    (tmp_path / "folder").write_bytes(b"")
    refused = threading.Event()
    with pytest.raises(UserError, match="folder/a: cannot be written"), written_behind() as results:
        results.add({tmp_path / "folder" / "a": b"1"})
        while not refused.wait(0.01):
            results.add({tmp_path / "good": b"2"})
    assert not list(tmp_path.glob("*.tmp"))


def test_what_was_added_is_written_when_the_work_is_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt), written_behind() as results:
        for name in "abc":
            results.add({tmp_path / name: b"1"})
        raise KeyboardInterrupt
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("whole", [True, False])
def test_all_are_flushed_before_any_is_named(tmp_path, monkeypatch, whole):
    """By the file system, and one by one where it has no flush for all."""
    seen, sync = [], disk.sync_files

    def recorded(files):
        seen.append(sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".tmp"))
        sync(files)

    monkeypatch.setattr("lorat.shards.base.storage.sync_files", recorded)
    if not whole:
        monkeypatch.setattr(disk.sys, "platform", "darwin")
    write_together({tmp_path / name: name.encode() for name in "abc"})
    assert seen == [[]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_failed_flush_leaves_nothing_and_names_a_file(tmp_path, monkeypatch):
    def fails(number):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk.sys, "platform", "darwin")
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(UserError, match=r"/a: cannot be written \(Input/output error\)"):
        write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert list(tmp_path.iterdir()) == []
