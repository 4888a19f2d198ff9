"""Shards in an S3 store, over HTTP: the same shards, the same checks, and no half object."""

import multiprocessing
import shutil
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from lorat.shards.base import storage
from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.storage import (
    Location,
    atomic_file,
    children,
    file_size,
    locate,
    read_bytes,
    read_json,
    read_range,
    remove_file,
    write_json,
)
from lorat.shards.manifest import load_manifest, load_receipt, receipt_path
from lorat.shards.reader import ShardReader, read_index
from lorat.shards.writer import index_path, write_shard
from tests.shards.conftest import flipped, start

NAME = "toy-train-00000.tar.zst"


@pytest.fixture
def broken_server():
    """Answers every request with status 500."""

    class Refusal(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            self.send_error(500)
            self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_POST = refuse

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def spool(tmp_path, monkeypatch):
    """Where files wait for their upload."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def remote_shard(s3, make_sample):
    place = locate(s3.url) / NAME
    write_shard(place, [make_sample(i) for i in range(6)])
    return place


@pytest.fixture
def remote_set(s3, tiny_shards):
    """The tiny training set, copied into a bucket."""
    folder = locate(s3.url) / "shards" / "toy-train"
    for file in (tiny_shards / "toy-train").iterdir():
        with atomic_file(folder / file.name) as copy:
            copy.write(file.read_bytes())
    return folder


@pytest.fixture(params=["disk", "store"])
def any_set(request, tiny_shards, tmp_path):
    """A copy of the tiny training set, wherever shards may lie."""
    if request.param == "store":
        return request.getfixturevalue("remote_set")
    return shutil.copytree(tiny_shards / "toy-train", tmp_path / "sets" / "toy-train")


def overwrite(place: Location, data: bytes) -> None:
    """Write a file or an object past our own code."""
    import boto3

    if isinstance(place, Path):
        place.write_bytes(data)
    else:
        bucket, key = place.path.split("/", 1)
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data)


def test_a_shard_has_the_same_bytes_in_a_store_as_on_disk(remote_shard, make_sample, tmp_path):
    local = tmp_path / NAME
    summary = write_shard(local, [make_sample(i) for i in range(6)])
    assert read_bytes(remote_shard) == local.read_bytes()
    assert read_bytes(index_path(remote_shard)) == index_path(local).read_bytes()
    assert file_size(remote_shard) == summary.bytes


@pytest.mark.parametrize("where", ["disk", "store"])
def test_rows_are_read_by_their_ranges(where, s3, tmp_path, make_sample):
    shard = (tmp_path if where == "disk" else locate(s3.url)) / NAME
    write_shard(shard, [make_sample(i) for i in range(6)])
    reader = ShardReader(shard)
    assert len(reader) == 6
    for row in (5, 0, 3):
        assert reader.read(row) == make_sample(row)
    with pytest.raises(IndexError):
        reader.read(6)
    reader.close()


def test_every_kind_of_damage_in_a_store_is_named(remote_shard):
    entry = read_index(remote_shard)[2]
    start, length = int(entry["offset"]), int(entry["length"])
    whole = read_bytes(remote_shard)
    reader = ShardReader(remote_shard)
    where = rf"{remote_shard} row 2( \(.*\))? at byte {start}"
    for bit in np.random.default_rng(0).integers(8 * length, size=20):
        overwrite(remote_shard, flipped(whole, 8 * start + int(bit)))
        with pytest.raises(ShardCorrupt, match=f"{where}: not the bytes"):
            reader.read(2)
    for kept in (start + length - 1, start + 1, start, start - 1, 0):
        overwrite(remote_shard, whole[:kept])
        there = max(0, kept - start)
        with pytest.raises(ShardCorrupt, match=f"{where}: {there} of {length} bytes are there"):
            reader.read(2)
    remove_file(remote_shard)
    with pytest.raises(UserError, match=f"{remote_shard}: the shard is missing; build") as gone:
        reader.read(2)
    assert not isinstance(gone.value, ShardCorrupt)  # that would be skipped as a damaged row
    remove_file(index_path(remote_shard))
    with pytest.raises(ShardCorrupt, match=r"toy-train-00000\.idx: cannot be read \(No such"):
        ShardReader(remote_shard)


def test_a_set_is_the_same_set_wherever_it_is_copied(any_set, tiny_shards):
    there = load_manifest(any_set)
    assert there.fingerprint() == load_manifest(tiny_shards / "toy-train").fingerprint()
    assert [(p.name, read_bytes(p)) for p in children(any_set)] == [
        (p.name, p.read_bytes()) for p in sorted((tiny_shards / "toy-train").iterdir())
    ]
    assert children(any_set.parent) == [any_set]
    for receipt in there.shards:
        assert load_receipt(any_set, receipt.shard, receipt.config) == receipt
    with pytest.raises(UserError, match="lorat-prep build"):
        load_manifest(any_set.parent)


def test_a_receipt_counts_only_with_its_whole_shard_at_this_moment(any_set):
    """Other machines write too, so no answer may come from what was seen before."""
    receipt = load_manifest(any_set).shards[0]
    shard = any_set / receipt.shard

    def counts(config: str = receipt.config) -> bool:
        return load_receipt(any_set, receipt.shard, config) is not None

    assert counts()
    assert not counts("another configuration")
    for place in (shard, index_path(shard), receipt_path(any_set, receipt.shard)):
        whole = read_bytes(place)
        children(any_set)  # a listing that could be remembered
        overwrite(place, whole[: len(whole) // 2])
        assert not counts()
        remove_file(place)
        assert not counts()
        overwrite(place, whole)
        assert counts()


def test_an_upload_that_is_cut_leaves_nothing_and_the_next_one_succeeds(s3, spool, wire, make_sample):
    samples = [make_sample(i, 200_000) for i in range(10)]
    line = wire(s3.endpoint, sent=1_500_000)
    through_line = UPath(f"{s3.url}/{NAME}", endpoint_url=line.endpoint, use_listings_cache=False)
    with pytest.raises(UserError) as cut:
        write_shard(through_line, samples)
    assert line.cut.is_set()
    assert cut.value.message.startswith(f"{s3.url}/{NAME}: cannot be written (")
    assert "\n" not in cut.value.message
    place = locate(s3.url) / NAME
    assert file_size(place) is None
    assert list(spool.iterdir()) == []
    write_shard(place, samples)
    assert ShardReader(place).read(9) == samples[9]


def test_an_upload_in_parts_that_is_cut_leaves_the_older_object(s3, spool, wire):
    place = locate(s3.url) / "large"
    overwrite(place, b"older")
    line = wire(s3.endpoint, sent=60 << 20)
    with (
        pytest.raises(UserError, match="cannot be written"),
        atomic_file(UPath(str(place), endpoint_url=line.endpoint, use_listings_cache=False)) as file,
    ):
        for _ in range(101):  # s3fs sends 100 MiB and more in parts
            file.write(bytes(1 << 20))
    assert line.cut.is_set()
    assert read_bytes(place) == b"older"


def test_a_writer_that_is_killed_while_it_uploads_leaves_nothing(s3, spool, wire):
    line = wire(s3.endpoint)
    code = (
        "for i in range(1000):\n"
        "    with atomic_file(place / str(i)) as file:\n"
        "        file.write(bytes([i % 256]) * (4 << 20))\n"
        "    print('here', flush=True)"
    )
    writer = start(code, s3.url, AWS_ENDPOINT_URL=line.endpoint, TMPDIR=str(spool))
    time.sleep(0.1)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    found = children(locate(s3.url))
    assert found
    for place in found:
        assert read_bytes(place) == bytes([int(place.name)]) * (4 << 20)


def test_a_server_that_dies_is_one_line_and_no_missing_shard(own_s3, tiny_shards):
    folder = locate(own_s3.url)
    place = folder / NAME
    receipt = load_manifest(tiny_shards / "toy-train").shards[0]
    for path in (tiny_shards / "toy-train").glob("toy-train-00000*"):
        overwrite(folder / path.name, path.read_bytes())
    reader = ShardReader(place)
    assert load_receipt(folder, NAME, receipt.config) == receipt
    own_s3.process.kill()
    own_s3.process.wait()
    calls = [
        lambda: load_receipt(folder, NAME, receipt.config),
        lambda: load_manifest(folder),
        lambda: reader.read(0),
        lambda: ShardReader(place),
        lambda: read_json(receipt_path(folder, NAME)),
        lambda: children(folder),
        lambda: write_json(folder / "x.json", 1),
    ]
    for call in calls:
        with pytest.raises(UserError) as gone:
            call()
        assert not isinstance(gone.value, ShardCorrupt)
        assert own_s3.url in gone.value.message and "\n" not in gone.value.message


def test_a_server_that_answers_with_errors_is_one_line(s3, broken_server):
    options = {"endpoint_url": broken_server, "use_listings_cache": False}
    place = UPath(f"{s3.url}/{NAME}", **options)
    for call in (lambda: read_bytes(place), lambda: file_size(place), lambda: write_json(place, 1)):
        with pytest.raises(UserError, match=f"{s3.url}/{NAME}: cannot be") as refused:
            call()
        assert "\n" not in refused.value.message


def test_a_bucket_that_does_not_exist_is_named(s3):
    place = locate("s3://no-such-bucket-here") / "x.json"
    with pytest.raises(UserError, match=r"s3://no-such-bucket-here/x\.json: cannot be written"):
        write_json(place, 1)
    with pytest.raises(UserError, match="No such object"):
        read_json(place)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_with_what_this_one_has_opened(remote_shard, make_sample, start):
    reader = ShardReader(remote_shard)
    assert reader.read(0) == make_sample(0)  # a client, its thread and a connection are open here
    context = multiprocessing.get_context(start)
    with context.Pool(2) as pool:
        jobs = pool.map_async(_read_row, [(remote_shard, row) for row in range(6)])
        assert jobs.get(timeout=60) == [make_sample(row) for row in range(6)]
    assert reader.read(5) == make_sample(5)


def _read_row(job):
    place, row = job
    return ShardReader(place).read(row)


def test_threads_share_a_client(remote_shard, make_sample):
    reader = ShardReader(remote_shard)
    before = len(storage._CLIENTS)
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(reader.read, range(6))) == [make_sample(row) for row in range(6)]
    assert len(storage._CLIENTS) == before


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=200), offset=st.integers(0, 250), length=st.integers(1, 250))
def test_a_range_is_the_slice_wherever_it_is_read(data, offset, length, tmp_path_factory):
    local = tmp_path_factory.getbasetemp() / "ranges"
    for place in (local, locate("memory://ranges/file")):
        with atomic_file(place) as file:
            file.write(data)
        assert read_range(place, offset, length) == data[offset : offset + length]
        assert file_size(place) == len(data)
