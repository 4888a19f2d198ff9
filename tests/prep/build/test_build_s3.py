"""Builds into an S3 server that answers, hangs up, or dies."""

import random
import socket
import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from lorat.prep.build.folder import finished
from lorat.prep.build.plan import BuildOptions, make_plan
from lorat.prep.build.run import build
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import children, locate, read_bytes
from lorat.shards.manifest import load_manifest

OPTIONS = BuildOptions(pairs=48, shard_pairs=8, workers=1)


class Line:
    """A TCP line to a server that can be cut: open connections break, new ones are refused."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.bytes_until_cut: int | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError):
                far = socket.create_connection(self._target)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), closing(source), closing(sink):
            while data := source.recv(4096):
                with self._lock:
                    if self.bytes_until_cut is not None:
                        self.bytes_until_cut -= len(data)
                        if self.bytes_until_cut < 0:
                            for end in (source, sink):
                                with suppress(OSError):
                                    end.shutdown(socket.SHUT_RDWR)
                            return
                sink.sendall(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_clips) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build(tiny_clips, folder, OPTIONS)
    return folder / "toy-train"


def contents(folder) -> dict[str, bytes]:
    return {p.name: read_bytes(p) for p in children(folder) if not p.name.endswith(".log")}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Logs of remote builds go into the working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_build_into_a_bucket_is_the_build_on_disk(s3, tiny_clips, tmp_path, whole, workers):
    shards = locate(f"{s3.url}/shards")
    options = replace(OPTIONS, workers=workers)
    assert build(tiny_clips, shards, replace(options, pairs=16)).built == 2
    assert build(tiny_clips, shards, options).built == 4
    assert build(tiny_clips, shards, options).built == 0
    assert contents(shards / "toy-train") == contents(whole)
    assert load_manifest(shards / "toy-train").rows == 48
    assert (tmp_path / "toy-train-build.log").is_file()


def test_a_line_that_is_cut_again_and_again_never_leaves_a_half_shard(own_s3, tiny_clips, whole, monkeypatch):
    line = Line(own_s3.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
    shards = locate(f"{own_s3.url}/shards")
    plan = make_plan(tiny_clips, shards, OPTIONS)
    rng = random.Random(1)
    cuts, ends = 0, set()
    while True:
        line.bytes_until_cut = rng.randrange(1000, 100_000 + 40_000 * cuts)
        try:
            build(tiny_clips, shards, OPTIONS)
        except UserError as error:
            cuts += 1
            assert "s3://" in error.message and "\n" not in error.message
            assert cuts < 60, error.message
        else:
            break
        finally:
            line.bytes_until_cut = None
        done = finished(plan, plan.mine())
        ends.add(len(done))
        for receipt in done.values():
            stored = read_bytes(plan.folder / receipt.shard)
            assert stored == (whole / receipt.shard).read_bytes()
    assert cuts >= 3 and len(ends) >= 2
    assert contents(plan.folder) == contents(whole)
    line.close()


def test_a_server_that_dies_stops_the_build_in_one_line(own_s3, tiny_clips):
    def kill(done: int, total: int) -> None:
        if done >= 16:
            own_s3.process.kill()
            own_s3.process.wait()

    with pytest.raises(UserError, match=r"s3://.*cannot be") as caught:
        build(tiny_clips, locate(f"{own_s3.url}/shards"), OPTIONS, kill)
    assert "\n" not in caught.value.message
