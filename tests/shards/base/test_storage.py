"""Files are whole or not there; what a disk refuses is one line that says what to do."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorat.shards.base import storage
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import (
    atomic_file,
    cache_folder,
    children,
    file_size,
    is_remote,
    locate,
    read_json,
    remove_leftovers,
    write_json,
)
from lorat.shards.writer import write_shard
from tests.shards.conftest import start


def one_line(error: UserError, *parts: object) -> None:
    assert "\n" not in error.message
    for part in parts:
        assert str(part) in error.message


def test_paths_and_urls_are_told_apart(tmp_path):
    assert locate("data/shards") == Path("data/shards")
    assert locate("~/x") == Path.home() / "x"
    assert locate("file:///data/x") == Path("/data/x")
    assert locate(tmp_path) == tmp_path
    assert not is_remote(locate("C:/x"))
    place = locate("memory://shards/")
    assert is_remote(place)
    assert str(place / "toy-train" / "manifest.json") == "memory://shards/toy-train/manifest.json"


@pytest.mark.parametrize("text", ["nowhere://bucket/x", "s3://", "memory:///"])
def test_a_url_that_names_nothing_is_refused(text):
    with pytest.raises(UserError) as refused:
        locate(text)
    one_line(refused.value, text, "s3://bucket/folder")


def test_without_s3fs_the_extra_is_named():
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from lorat.shards.base.storage import locate\n"
        "from lorat.shards.base.errors import UserError\n"
        "try: locate('s3://bucket/x')\n"
        "except UserError as error: print(error.message)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "s3://bucket/x: s3:// needs another package; pip install 'lorat[s3]'\n"


def test_a_full_disk_leaves_nothing_half_and_says_where(small_disk, make_sample):
    shard = small_disk / "toy-train-00000.tar.zst"
    with pytest.raises(UserError) as full:
        write_shard(shard, [make_sample(i, 100_000) for i in range(20)])
    one_line(full.value, shard, "No space left", f"make room on the disk of {small_disk}")
    assert list(small_disk.iterdir()) == []
    write_shard(shard, [make_sample(0)])  # there is room again


def test_a_disk_that_fills_up_keeps_the_older_file(small_disk):
    path = small_disk / "file"
    path.write_bytes(b"older")
    with pytest.raises(UserError, match="No space left"), atomic_file(path) as file:
        for _ in range(300):
            file.write(b"\0" * 8192)
    assert path.read_bytes() == b"older"
    assert list(small_disk.iterdir()) == [path]


def test_a_limit_on_file_sizes_leaves_nothing_half(tmp_path, make_sample):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(UserError) as refused:
            write_shard(tmp_path / "a.tar.zst", [make_sample(i, 100_000) for i in range(5)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    one_line(refused.value, tmp_path / "a.tar.zst", "File too large", "ulimit -f")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as refused:
        write_json(tmp_path / "file" / "below.json", 1)
    one_line(refused.value, tmp_path / "file" / "below.json", f"{tmp_path / 'file'} is a file")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user_is_named(tmp_path):
    child = os.fork()
    if child == 0:
        os.setuid(65534)  # root may write everywhere
        try:
            write_json(Path("/work-of-root.json"), 1)
        except UserError as error:
            text = "/work-of-root.json: cannot be written (Permission denied); make / writable"
            os._exit(0 if error.message.startswith(text) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_errors_of_the_callers_own_block_pass_and_leave_the_older_file(tmp_path):
    (tmp_path / "older").write_bytes(b"older")
    for name in ("older", "new"):
        with pytest.raises(FileNotFoundError), atomic_file(tmp_path / name) as file:
            file.write(b"half of the new")
            (tmp_path / "missing").read_bytes()
    with pytest.raises(KeyError), atomic_file(locate("memory://passing/a")):
        raise KeyError
    assert list(tmp_path.iterdir()) == [tmp_path / "older"]
    assert (tmp_path / "older").read_bytes() == b"older"
    assert children(locate("memory://passing")) == []


def test_a_file_is_flushed_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    """So that a power cut can neither undo the name nor leave it on missing bytes."""
    events: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(number):
        events.append(("flushed", Path(f"/proc/self/fd/{number}").readlink()))
        fsync(number)

    def recorded_replace(file, target):
        events.append(("named", target))
        return replace(file, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    path = tmp_path / "new" / "folder" / "file"
    with atomic_file(path) as file:
        file.write(b"x")
    kinds = [kind for kind, _ in events]
    assert events[:2] == [("flushed", tmp_path / "new"), ("flushed", tmp_path)]
    assert kinds[2:] == ["flushed", "named", "flushed"]
    assert events[2][1].suffix == ".tmp"
    assert events[-1] == ("flushed", path.parent)


def test_a_file_system_that_cannot_flush_folders_is_no_error(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuses_folders(number):
        if Path(f"/proc/self/fd/{number}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(number)

    monkeypatch.setattr(os, "fsync", refuses_folders)
    write_json(tmp_path / "a.json", 1)
    assert read_json(tmp_path / "a.json") == 1


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_what_a_killed_process_leaves_is_found_and_what_a_living_one_writes_stays(tmp_path, monkeypatch, where):
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))  # where a store's files wait
    place = tmp_path / "file" if where == "disk" else locate("memory://killed/file")
    folder = tmp_path if where == "disk" else place.parent
    code = "with atomic_file(place) as f: f.write(b'x' * 100000); print('here', flush=True); time.sleep(60)"
    writer = start(code, place, TMPDIR=str(tmp_path))
    assert remove_leftovers(folder) == 0
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert file_size(place) is None
    (left,) = tmp_path.iterdir()
    assert remove_leftovers(folder) == 0  # whether its process runs on some machine nobody knows
    os.utime(left, (0, time.time() - 7 * 3600))
    assert remove_leftovers(folder) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_another_user_left_in_a_folder_for_all_stays(tmp_path, monkeypatch):
    left = tmp_path / ".lorat-upload-x.lorat-0123456789abcdef.tmp"
    left.touch()
    os.utime(left, (0, 0))

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)  # as the system does in a sticky folder
    assert remove_leftovers(tmp_path) == 0
    monkeypatch.undo()
    assert remove_leftovers(tmp_path) == 1


def test_only_what_is_ours_counts_as_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    ours = (".a.idx.lorat-0123456789abcdef.tmp", ".a.idx.node7-123.tmp", ".lorat-upload-x.lorat-0123456789abcdef.tmp")
    others = (".a.tmp", ".vim.swp.tmp", "a.lorat-0123456789abcdef.tmp", ".a.lorat-0123456789abcdef.tmp.txt")
    for name in (*ours, *others):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    assert remove_leftovers(locate("memory://left/file")) == 1  # a store's: the folder belongs to all programs
    assert remove_leftovers(tmp_path) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_named_by_its_content_is_written_once(tmp_path, monkeypatch, links):
    if not links:  # as some file systems
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EPERM, "no links")))
    nodes = []
    for _ in range(2):
        with atomic_file(tmp_path / "x", lambda: "x-7") as file:
            file.write(b"7")
        assert [p.name for p in tmp_path.iterdir()] == ["x-7"]
        nodes.append((tmp_path / "x-7").stat().st_ino)
    assert not links or nodes[0] == nodes[1]


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    for look in (file_size, children):
        with pytest.raises(UserError) as refused:
            look(tmp_path / "file")
        one_line(refused.value, tmp_path / "file", "Permission denied", "see that it is there")


def test_a_killed_writer_never_leaves_half_a_file(tmp_path, monkeypatch):
    """Killed at random moments while it writes the same file again and again."""
    code = (
        "print('here', flush=True)\n"
        "for i in range(10**6):\n"
        "    with atomic_file(place) as file:\n"
        "        [file.write(bytes([i % 256]) * 5000) for _ in range(40)]"
    )
    path = tmp_path / "file"
    for wait in (0.0, 0.01, 0.03, 0.05):
        writer = start(code, path)
        time.sleep(wait)
        writer.kill()
        writer.wait()
        if path.exists():
            data = path.read_bytes()
            assert len(data) == 200_000
            assert len(set(data)) == 1
    monkeypatch.setattr(storage, "_LEFT_AFTER", -1.0)
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} <= {"file"}


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LORAT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/lorat")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/a")
    assert cache_folder() == Path("/home/a/.cache/lorat")
