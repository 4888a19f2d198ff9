import logging
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

from lorat.shards.base.process import wait_briefly

wait_briefly()  # tests run side by side: threads that wait awake took two thirds of the processor's time from them

import torch

from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.base import storage
from lorat.shards.pixels.jpeg import encode

ROOT = Path(__file__).parents[1]

# A busy machine is no failure.
settings.register_profile("lorat", deadline=None)
settings.load_profile("lorat")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(2)
    cv2.setNumThreads(1)
    # Ignored where a script runs the tests in the background; commands inherit that, and some tests press Ctrl-C on
    # them.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indices of test trees do not go into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """A command that runs in this process and takes its threads leaves the next test its own."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What lorat logs, caught once. pytest listens to a logger that hands nothing on, as a command leaves lorat's; one
    that is changed after the test has begun is heard twice.
    """
    monkeypatch.setattr(logging.getLogger("lorat"), "propagate", True)
    return caplog


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of arrays and photographs beside the checkout; tests skip where it is missing."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared here")
    return folder


class Golden:
    """Published arrays: all of them beside the checkout, else those in it, of which some are parts; a test skips where
    one is missing.
    """

    def __truediv__(self, name: str) -> Path:
        own, beside = ROOT / "tests/golden" / name, ROOT.parent / "shared/golden" / name
        if not own.exists() and not beside.exists():
            pytest.skip(f"needs {beside}")
        return beside if beside.exists() else own


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()


def write_clip(folder: Path, name: str, frames: int, seed: int) -> Clip:
    """A patch that moves over noise, with one frame in the middle where it is not visible."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 120, (96, 128, 3), dtype=np.uint8)
    patch = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (32, 24))
    folder = folder / name
    folder.mkdir(parents=True)
    boxes = np.full((frames, 4), np.nan)
    for i in range(frames):
        x, y = 10 + 5 * i, 20 + 3 * i + seed % 5
        image = ground.copy()
        image[y : y + 24, x : x + 32] = patch
        boxes[i] = (x, y, x + 32, y + 24)
        (folder / f"{i + 1:08d}.jpg").write_bytes(encode(image, 95))
    visible = np.ones(frames, dtype=bool)
    if frames > 4:
        visible[frames // 2] = False
    files = FrameFiles(folder, range(1, frames + 1), "%08d.jpg")
    return Clip("toy", "train", name, files, (Track(boxes, visible),), frames)


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Four sequences of 1 to 9 frames, 128 x 96 pixels."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder, f"seq-{n}", n, seed) for seed, n in enumerate((1, 5, 7, 9))]


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory, tiny_clips: list[Clip]) -> Path:
    """Two shard sets of the tiny clips: toy-train (48 pairs in 3 shards) and toy-val (20 in 2)."""
    folder = tmp_path_factory.mktemp("shards")
    build(tiny_clips, folder, BuildOptions(pairs=48, shard_pairs=16, workers=1))
    clips = [replace(clip, split="val") for clip in tiny_clips]
    build(clips, folder, BuildOptions(pairs=20, shard_pairs=10, workers=1))
    return folder


@dataclass(frozen=True)
class Store:
    """A bucket of an S3 server on this machine."""

    endpoint: str
    bucket: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A moto server in its own process; its address and the process."""
    with start_s3() as (endpoint, process):
        yield endpoint, process


@pytest.fixture
def s3(s3_server, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A new bucket; the environment names the server, as it would name another S3."""
    endpoint, process = s3_server
    set_s3(monkeypatch, endpoint)
    return new_bucket(endpoint, process)


@pytest.fixture
def own_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A bucket on a server that only this test uses, and may kill."""
    with start_s3() as (endpoint, process):
        set_s3(monkeypatch, endpoint)
        yield new_bucket(endpoint, process)


@contextmanager
def start_s3() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not _answers(f"{endpoint}/moto-api/"):
            assert process.poll() is None and time.monotonic() < deadline, "moto did not start"
            time.sleep(0.05)
        yield endpoint, process
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def set_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    values = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_MAX_ATTEMPTS": "1",  # a dead server is noticed at once
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "_CLIENTS", {})  # a client keeps the server it was made for


def new_bucket(endpoint: str, process: subprocess.Popen[bytes]) -> Store:
    import boto3

    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return Store(endpoint, bucket, process)
