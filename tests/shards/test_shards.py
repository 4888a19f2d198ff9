"""Shards: whole or not there, readable by every tool, checked in every bit that is read."""

import hashlib
import os
from dataclasses import replace

import pytest

from lorat.shards.base.errors import ShardCorrupt
from lorat.shards.manifest import load_manifest
from lorat.shards.reader import ShardReader
from lorat.shards.sample import Sample, StoredImage, from_members, to_members
from lorat.shards.tar import pack_members
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


def test_a_pairs_tar_bytes_are_what_they_always_were():
    """Computed before there were tuples: shards that were built then go on."""
    both = {"box": (1.0, 2.0, 30.5, 40.25), "frame_size": (128, 96), "mean": (1.5, 2.5, 3.5), "origin": (0, 1)}
    template, search = (
        StoredImage(frame=frame, window=(64, 65), size=(side, side), jpeg=bytes(range(side)) * 3, **both)
        for frame, side in ((7, 32), (12, 64))
    )
    sample = Sample("toy-train-000000003", "toy", "train", "seq 1", 0, (template,), (search,))
    raw = pack_members(to_members(sample))
    digest = "d38332dde990366c2d8c250ffe969ed0d1cf82c6345acd742dc400ce76bcecf0"
    assert (len(raw), hashlib.sha256(raw).hexdigest()) == (3072, digest)


@pytest.mark.parametrize("count", [(3, 2), (1, 2), (1, 1), (2, 1)])
def test_a_sample_of_any_shape_comes_back_from_its_members(make_sample, count):
    image = make_sample(3).searches[0]
    images = tuple(replace(image, frame=number, jpeg=bytes([number])) for number in range(sum(count)))
    sample = replace(make_sample(3), templates=images[: count[0]], searches=images[count[0] :])
    assert from_members(to_members(sample), "here") == sample


@pytest.mark.parametrize("lost", range(1, 6))
def test_a_tuple_without_one_of_its_images_is_refused(make_sample, lost):
    image = make_sample(3).searches[0]
    members = to_members(replace(make_sample(3), templates=(image,) * 3, searches=(image,) * 2))
    with pytest.raises(ShardCorrupt, match=r"here: (members are|JSON)"):
        from_members([*members[:lost], *members[lost + 1 :]], "here")
