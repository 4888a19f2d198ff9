"""Shards open in the tools that people have: zstd, tar, WebDataset. The real ones are run."""

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import torch
import webdataset

from lorat.shards.cache.cache import open_shard
from lorat.shards.manifest import load_manifest
from lorat.shards.pixels.jpeg import decode
from lorat.shards.sample import Sample, to_members

pytestmark = pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd command here")


@pytest.fixture(scope="session")
def shard(tiny_shards: Path) -> Path:
    manifest = load_manifest(tiny_shards / "toy-train")
    return manifest.folder / manifest.shards[1].shard


@pytest.fixture(scope="session")
def samples(tiny_shards: Path) -> list[Sample]:
    reader = open_shard(load_manifest(tiny_shards / "toy-train"), 1)
    return [reader.read(row) for row in range(len(reader))]


def output(*command: str | Path) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout


def test_zstd_finds_every_checksum_right_and_counts_a_frame_a_sample_and_one_for_the_end(shard, samples):
    output("zstd", "-tq", shard)
    listed = output("zstd", "-lv", shard).decode()
    frames = [line for line in listed.splitlines() if "Frames" in line]
    assert str(len(samples) + 1) in frames[0]


def test_tar_and_pythons_tarfile_read_what_the_reader_reads(shard, samples, tmp_path):
    members = [member for sample in samples for member in to_members(sample)]
    assert output("tar", "--zstd", "-tf", shard).decode().split() == [name for name, _ in members]
    output("tar", "--zstd", "-xf", shard, "-C", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict(members)
    raw = output("zstd", "-dcq", shard)
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
        found = [(info.name, tar.extractfile(info).read()) for info in tar]
    assert found == members


def test_webdataset_reads_what_the_reader_reads(shard, samples):
    found = list(webdataset.WebDataset(f"pipe:zstd -dcq {shard}", shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [sample.key for sample in samples]
    for one, sample in zip(found, samples, strict=True):
        assert one["search.jpg"] == sample.searches[0].jpeg
        assert one["template.jpg"] == sample.templates[0].jpeg
        assert json.loads(one["json"])["search"]["box"] == list(sample.searches[0].box)


def test_webdataset_decodes_shards_in_loader_processes(tiny_shards):
    shards = sorted((tiny_shards / "toy-train").glob("*.tar.zst"))
    dataset = webdataset.WebDataset(
        [f"pipe:zstd -dcq {path}" for path in shards], shardshuffle=False, empty_check=False
    )
    loader = torch.utils.data.DataLoader(
        dataset.decode("rgb8").to_tuple("__key__", "search.jpg"), batch_size=None, num_workers=2
    )
    images = dict(iter(loader))
    assert len(images) == 48
    sample = open_shard(load_manifest(tiny_shards / "toy-train"), 0).read(0)
    assert images[sample.key].shape == decode(sample.searches[0].jpeg).shape
