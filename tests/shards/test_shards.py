"""Shards: whole or not there, readable by every tool, checked in every bit that is read."""

import os

import pytest

from lorat.shards.base.errors import ShardCorrupt
from lorat.shards.manifest import load_manifest
from lorat.shards.reader import ShardReader
from lorat.shards.sample import from_members, to_members
from lorat.shards.writer import index_path, write_shard


@pytest.fixture
def samples(make_sample):
    return [make_sample(i, 500 + 37 * i) for i in range(6)]


@pytest.fixture
def shard(tmp_path, samples):
    path = tmp_path / "toy-train-00000.tar.zst"
    write_shard(path, samples)
    return path


def test_the_same_samples_give_the_same_bytes(shard, samples, tmp_path):
    again = tmp_path / "again.tar.zst"
    write_shard(again, samples)
    assert again.read_bytes() == shard.read_bytes()
    assert index_path(again).read_bytes() == index_path(shard).read_bytes()


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("a byte", r"toy-train-00000\.idx: \d+ bytes are no whole index; build it again"),
        (".idx", r"toy-train-00000\.idx: cannot be read \(No such .* build it again"),
        (".tar.zst", r"tar\.zst: cannot be read \(No such .* build it again"),
    ],
)
def test_a_missing_file_or_a_cut_index_is_named_with_a_remedy(shard, gone, told):
    index = index_path(shard)
    if gone == "a byte":
        index.write_bytes(index.read_bytes()[:-1])
    else:
        shard.with_name(f"toy-train-00000{gone}").unlink()
    with pytest.raises(ShardCorrupt, match=told):
        ShardReader(shard)


def test_a_closed_reader_closes_and_reads_no_file_that_was_opened_since(shard):
    reader = ShardReader(shard)
    reader.close()
    with shard.open("rb") as other:  # it is given the same number
        reader.close()
        assert os.fstat(other.fileno())
        with pytest.raises(ShardCorrupt, match="Bad file descriptor"):
            reader.read(0)


def test_a_sample_of_a_newer_version_or_without_a_member_is_refused(make_sample):
    members = to_members(make_sample(0))
    newer = (members[0][0], members[0][1].replace(b'"version":1', b'"version":9'))
    with pytest.raises(ShardCorrupt, match=r"shard x.*version 9"):
        from_members([newer, *members[1:]], "shard x")
    with pytest.raises(ShardCorrupt, match="shard x"):
        from_members(members[:2], "shard x")


def test_manifests_come_back_and_fingerprints_tell_builds_apart(tiny_shards):
    manifest = load_manifest(tiny_shards / "toy-train")
    assert (manifest.rows, len(manifest.shards)) == (48, 3)
    assert manifest.fingerprint() == load_manifest(tiny_shards / "toy-train").fingerprint()
    assert manifest.fingerprint() != load_manifest(tiny_shards / "toy-val").fingerprint()
