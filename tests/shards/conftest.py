import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from urllib.parse import urlsplit

import numpy as np
import pytest

from lorat.shards.base.storage import Location
from lorat.shards.manifest import Manifest, Receipt, shard_name
from lorat.shards.sample import Sample, StoredImage
from lorat.shards.writer import write_shard


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., Sample]:
    """``make_sample(number, size)``: images of so many random bytes, which need not decode."""
    return _make_sample


def start(code: str, place: object, **environment: str) -> subprocess.Popen:
    """Start an interpreter that writes to a place, and wait until it says that it is there."""
    begin = "import sys, time\nfrom lorat.shards.base.storage import atomic_file, locate\nplace = locate(sys.argv[1])\n"
    command = [sys.executable, "-c", begin + code, str(place)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment})
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"here\n"
    return writer


def flipped(data: bytes, bit: int) -> bytes:
    """Return bytes of which one bit is another."""
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def _make_sample(number: int, size: int = 500) -> Sample:
    rng = np.random.default_rng(number)
    images = [
        StoredImage(
            frame=number,
            box=(1.0, 2.0, 30.5, 40.25),
            frame_size=(128, 96),
            mean=(1.5, 2.5, 3.5),
            origin=(0, 1),
            window=(64, 65),
            size=(side, side),
            jpeg=rng.bytes(size),
        )
        for side in (32, 64)
    ]
    return Sample(f"toy-train-{number:09d}", "toy", "train", "seq 1", 0, tuple(images[:1]), tuple(images[1:]))


@pytest.fixture(scope="session")
def write_set(make_sample) -> Callable[..., Manifest]:
    """``write_set(folder, shards, size)``: shard k holds samples 4 k … 4 k + 3."""

    def write(folder: Location, shards: int, size: int = 500) -> Manifest:
        receipts = []
        for number in range(shards):
            name = shard_name("toy", "train", number)
            rows = range(4 * number, 4 * (number + 1))
            summary = write_shard(folder / name, [make_sample(i, size) for i in rows])
            receipts.append(Receipt(name, rows.start, len(rows), **asdict(summary), config="c"))
        return Manifest("toy", "train", {}, tuple(receipts), folder)

    return write


@pytest.fixture(scope="module")
def shards(tmp_path_factory, write_set) -> Manifest:
    """Six shards on a disk that is far away."""
    return write_set(tmp_path_factory.mktemp("far"), 6)


@pytest.fixture
def damageable(shards, tmp_path) -> Manifest:
    """A copy of them."""
    shutil.copytree(shards.folder, tmp_path / "far")
    return replace(shards, folder=tmp_path / "far")


class Wire:
    """Carries TCP to a server, counts the bytes, and can fail after so many either way."""

    def __init__(self, endpoint: str, sent: int | None, received: int | None, stall: bool) -> None:
        self._target = (urlsplit(endpoint).hostname, urlsplit(endpoint).port)
        self._limits = {"sent": sent, "received": received}
        self._stall = stall
        self.counts = {"sent": 0, "received": 0}
        self.cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for ends in ((client, server, "sent"), (server, client, "received")):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        limit = self._limits[way]
        with suppress(OSError):
            while data := source.recv(65536):
                self.counts[way] += len(data)
                if limit is not None and self.counts[way] > limit:
                    self.cut.set()
                    if self._stall:
                        return
                    self.close()
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError), end:
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wire():
    """``wire(endpoint, sent=…, received=…, stall=…)``: a line to a server that fails.

    After so many bytes sent to or received from the server it is cut, for good, or stands still.
    """
    lines = []

    def make(endpoint: str, sent: int | None = None, received: int | None = None, stall: bool = False) -> Wire:
        lines.append(Wire(endpoint, sent, received, stall))
        return lines[-1]

    yield make
    for line in lines:
        line.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; only root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    try:
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("may not mount a tmpfs here")
    except FileNotFoundError:
        pytest.skip("no mount command here")
    yield folder
    subprocess.run(["umount", folder], check=True)
