"""A cache of whole shards: fetched once, checked before use, never above its limit."""

import errno
import fcntl
import hashlib
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.storage import locate, read_bytes, remove_file
from lorat.shards.cache.cache import CacheOptions, ShardCache, open_shard
from lorat.shards.cache.folder import Others, entry_of, is_locked, locked, room_lock
from lorat.shards.manifest import Manifest
from lorat.shards.writer import index_path
from tests.shards.cache.small_caches import ROWS, get, held, make_cache


def size_of(folder: Path) -> int:
    sizes = []
    for path in list(folder.iterdir()):
        with suppress(FileNotFoundError):  # renamed since
            sizes.append(0 if path.name.startswith("lock-") else path.stat().st_size)
    return sum(sizes)


def test_a_cached_shard_is_the_shard_and_needs_the_store_no_more(s3, tmp_path, make_sample, write_set):
    manifest = write_set(locate(s3.url) / "toy-train", 2)
    cache = make_cache(tmp_path, manifest, 2)
    place = manifest.folder / manifest.shards[1].shard
    path = get(cache, manifest, 1)
    assert path.read_bytes() == read_bytes(place)
    assert index_path(path).read_bytes() == read_bytes(index_path(place))
    for gone in (place, index_path(place)):
        remove_file(gone)
    assert get(cache, manifest, 1) == path
    reader = open_shard(manifest, 1, cache)
    assert [reader.read(row) for row in range(ROWS)] == [make_sample(4 + i) for i in range(ROWS)]
    assert open_shard(manifest, 0).read(2) == make_sample(2)  # and without a cache


def test_the_least_recently_used_go_first(shards, tmp_path):
    cache = make_cache(tmp_path / "cache", shards, 3)
    for number in (0, 1, 2, 0, 3):
        get(cache, shards, number)
    assert held(tmp_path / "cache") == [0, 2, 3]
    get(cache, shards, 4)
    assert held(tmp_path / "cache") == [0, 3, 4]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=25), st.integers(1, 5))
def test_the_cache_holds_what_the_rule_says_and_never_more_than_its_limit(tmp_path_factory, shards, wanted, room):
    folder = tmp_path_factory.mktemp("cache")
    cache = make_cache(folder, shards, room)
    expected: list[int] = []
    for number in wanted:
        get(cache, shards, number)
        expected = [*(n for n in expected if n != number), number][-room:]
        assert held(folder) == sorted(expected)
        assert size_of(folder) <= cache.options.max_bytes
    shutil.rmtree(folder)


def test_a_limit_below_one_shard_is_refused(shards, tmp_path):
    cache = make_cache(tmp_path / "cache", shards, 0.9)
    with pytest.raises(UserError, match=r"limit is [\d,]+; raise it"):
        get(cache, shards, 0)


def test_files_that_are_not_the_caches_own_stay(damageable):
    """Even where somebody names a folder of shards as the cache."""
    before = {p.name for p in damageable.folder.iterdir()}
    cache = make_cache(damageable.folder, damageable, 1)
    for number in (0, 1, 2):
        get(cache, damageable, number)
    assert {p.name for p in damageable.folder.iterdir()} >= before
    assert len(list(damageable.folder.glob("*.*.tar.zst"))) == 1


def test_a_shard_is_hashed_once_while_it_is_untouched(shards, tmp_path, monkeypatch):
    cache = make_cache(tmp_path, shards, 2)
    path = get(cache, shards, 0)
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: (hashed.append(file.name), digest(file, name))[1])
    get(ShardCache(cache.options), shards, 0)
    assert hashed == []
    os.utime(path)
    for _ in range(2):
        get(ShardCache(cache.options), shards, 0)
    assert hashed == [str(path)]


def test_an_open_shard_is_dropped_last_and_stays_readable(shards, tmp_path, make_sample):
    cache = make_cache(tmp_path, shards, 2)
    reader = open_shard(shards, 0, cache)
    for number in (1, 2, 3):  # the oldest is open, so the others go
        get(cache, shards, number)
        assert held(tmp_path) == [0, number]
    other = open_shard(shards, 3, cache)
    get(cache, shards, 4)  # both are open: the older one goes
    assert held(tmp_path) == [3, 4]
    assert [reader.read(row) for row in range(ROWS)] == [make_sample(i) for i in range(ROWS)]
    for one in (reader, other):
        one.close()
    get(cache, shards, 5)
    assert held(tmp_path) == [4, 5]


def test_a_process_that_is_forked_while_locks_are_tried_holds_none(shards, tmp_path, monkeypatch):
    cache = make_cache(tmp_path, shards, 1)
    path = get(cache, shards, 0)
    flock, children = fcntl.flock, []

    def forking(file, kind: int) -> None:
        flock(file, kind)
        if kind == fcntl.LOCK_EX | fcntl.LOCK_NB:
            children.append(os.fork())
            if not children[-1]:
                time.sleep(60)
                os._exit(0)

    monkeypatch.setattr(fcntl, "flock", forking)
    try:
        assert not is_locked(path)
        with path.open("rb") as file:
            flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_folder_that_lies_in_a_file_is_named(shards, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/cache: cannot be written \(Not a directory\); "):
        get(make_cache(tmp_path / "file" / "cache", shards, 1), shards, 0)


def test_shards_that_another_user_fetched_are_read(shards, tmp_path, monkeypatch):
    cache = make_cache(tmp_path, shards, 1)
    path = get(cache, shards, 0)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)  # as the system does for files of others
    assert get(cache, shards, 0) == path


def test_an_index_that_cannot_be_read_is_named_not_the_cache(shards, tmp_path, monkeypatch):
    def fail(_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("lorat.shards.cache.cache.read_bytes", fail)
    index = index_path(shards.folder / shards.shards[0].shard)
    with pytest.raises(UserError, match=f"{index}: cannot be read \\(Input/output error\\); run"):
        get(make_cache(tmp_path, shards, 1), shards, 0)
    assert size_of(tmp_path) == 0


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, small_disk, write_set):
    manifest = write_set(tmp_path / "far", 1, size=300_000)
    with pytest.raises(UserError, match=f"{small_disk}: cannot be written .*No space left"):
        get(make_cache(small_disk, manifest, 5), manifest, 0)
    assert size_of(small_disk) == 0


def _get_all(results, options: CacheOptions, manifest: Manifest, start) -> None:
    cache = ShardCache(options)
    start.wait()
    files = [get(cache, manifest, number).read_bytes() for number in range(2)]
    results.put([hashlib.sha256(file).hexdigest() for file in files])


def test_processes_that_want_the_same_shards_fetch_them_once(s3, wire, tmp_path, write_set, monkeypatch):
    manifest = write_set(locate(s3.url) / "toy-train", 2, size=200_000)
    line = wire(s3.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)  # for the processes that follow
    context = multiprocessing.get_context("spawn")
    results, start = context.Queue(), context.Barrier(3)
    options = make_cache(tmp_path, manifest, 2).options
    job = (results, options, manifest, start)
    processes = [context.Process(target=_get_all, args=job) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found == [[r.sha256 for r in manifest.shards]] * 3
    size = sum(r.bytes for r in manifest.shards)
    assert size < line.counts["received"] < 1.1 * size


def _read_at_random(seed: int, options: CacheOptions, manifest: Manifest) -> bool:
    rng = np.random.default_rng(seed)
    cache, readers = ShardCache(options), []
    for number in rng.integers(0, len(manifest.shards), 60):
        readers.append((number, open_shard(manifest, number, cache)))
        for shard, reader in readers:
            row = int(rng.integers(ROWS))
            assert reader.read(row).key == f"toy-train-{shard * ROWS + row:09d}"
        if len(readers) > 2:
            readers.pop(0)[1].close()
    return True


def test_processes_that_drop_each_others_shards_read_on(shards, tmp_path):
    """Three readers at random in a cache for two shards, so nearly each opening drops one."""
    options = make_cache(tmp_path, shards, 2).options
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        done = pool.starmap_async(_read_at_random, [(i, options, shards) for i in range(3)])
        while not done.ready():
            with locked(room_lock(tmp_path)):  # nothing is dropped or begun meanwhile
                assert size_of(tmp_path) <= options.max_bytes
            time.sleep(0.01)
        assert done.get() == [True] * 3


def start_other(cache: ShardCache, manifest: Manifest, endpoint: str, code: str):
    """Start an interpreter that runs `code` with `cache`, `receipt` and `shard` at hand."""
    given = pickle.dumps((cache, manifest.shards[0], manifest.folder / manifest.shards[0].shard))
    begin = f"import pickle, sys\ncache, receipt, shard = pickle.loads({given!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", begin + code],
        env={**os.environ, "AWS_ENDPOINT_URL": endpoint},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_download_that_is_killed_leaves_nothing_that_counts(s3, wire, tmp_path, write_set):
    manifest = write_set(locate(s3.url) / "toy-train", 1, size=1_000_000)
    cache = make_cache(tmp_path / "cache", manifest, 1)
    line = wire(s3.endpoint, received=2_000_000, stall=True)
    process = start_other(cache, manifest, line.endpoint, "cache.fetch(shard, receipt)")
    assert line.cut.wait(60)
    part = next(cache.options.folder.glob("*.part"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert part.exists()
    assert held(cache.options.folder) == []
    path = get(cache, manifest, 0)
    assert path.read_bytes() == read_bytes(manifest.folder / manifest.shards[0].shard)
    assert not part.exists()
    assert size_of(cache.options.folder) <= cache.options.max_bytes


def test_what_another_killed_download_left_makes_room(shards, tmp_path):
    cache = make_cache(tmp_path, shards, 1)
    path = get(cache, shards, 0)
    orphan = path.with_name(f"{path.name}.part")
    path.rename(orphan)
    get(cache, shards, 1)
    assert not orphan.exists()
    assert held(tmp_path) == [1]


def test_a_server_that_dies_during_a_download_is_one_line(s3, wire, tmp_path, write_set):
    manifest = write_set(locate(s3.url) / "toy-train", 1, size=1_000_000)
    line = wire(s3.endpoint, received=2_000_000)
    options = {"endpoint_url": line.endpoint, "use_listings_cache": False}
    through_line = replace(manifest, folder=type(manifest.folder)(str(manifest.folder), **options))
    cache = make_cache(tmp_path, manifest, 1)
    with pytest.raises(UserError, match=r"toy-train-00000\.tar\.zst: cannot be read") as gone:
        get(cache, through_line, 0)
    assert line.cut.is_set()
    assert not isinstance(gone.value, ShardCorrupt)
    assert "\n" not in gone.value.message
    assert size_of(tmp_path) == 0
    get(cache, manifest, 0)  # the server is back


def test_an_interpreter_ends_quietly_while_shards_are_fetched(s3, wire, tmp_path, write_set):
    manifest = write_set(locate(s3.url) / "toy-train", 1, size=1_000_000)
    cache = make_cache(tmp_path / "cache", manifest, 2)
    line = wire(s3.endpoint, received=2_000_000, stall=True)
    code = "cache.prefetch([(shard, receipt)]); sys.stdin.read()"
    process = start_other(cache, manifest, line.endpoint, code)
    assert line.cut.wait(60)
    assert (*process.communicate(timeout=60), process.returncode) == (b"", b"", 0)


HOLD = """
import fcntl, os, signal, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_process_that_holds_the_cache_and_stopped_is_not_waited_for_without_end(shards, tmp_path, monkeypatch):
    """It keeps the lock of a shard, or the room for one."""
    monkeypatch.setenv("LORAT_STORE_TIMEOUT", "0.2")
    cache = make_cache(tmp_path, shards, 1)
    entry = entry_of(tmp_path, shards.shards[0])
    for kept, number, what in (
        (entry.lock, 0, "lock-.*: another process holds it, and no process fetched anything"),
        (entry.part, 1, "its room is promised to downloads of other processes, and no process fetched anything"),
    ):
        kept.write_bytes(b"")
        os.truncate(kept, cache.options.max_bytes if kept == entry.part else 0)
        with subprocess.Popen([sys.executable, "-c", HOLD, kept], stdout=subprocess.PIPE) as stopped:
            stopped.stdout.readline()
            with pytest.raises(UserError, match=what):
                get(cache, shards, number)
            stopped.kill()
        kept.unlink()
    monkeypatch.undo()
    assert get(cache, shards, 0).exists()


def test_who_waits_for_a_download_that_gets_on_goes_on_waiting(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAT_STORE_TIMEOUT", "0.05")
    part, begin, others = tmp_path / "x.part", time.monotonic(), Others(tmp_path, "x")
    with pytest.raises(UserError, match=r"^x, and no process fetched .* for 0\.1 s"):
        while True:
            others.wait()
            if time.monotonic() - begin < 0.5:
                part.write_bytes(b"more")
    assert time.monotonic() - begin > 0.55
