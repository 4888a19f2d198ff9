"""No damaged bit is read as if it were sound: each is found, and named by shard, key and byte.

What each test damages is a real shard set, built from JPEGs by the real build. A row that cannot be read names its
shard, row, key and byte offset; a row that can be read is the one that was written.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.cache.cache import open_shard
from lorat.shards.manifest import Manifest, load_manifest, load_receipt, receipt_path
from lorat.shards.reader import ShardReader, read_index
from lorat.shards.sample import Sample
from lorat.shards.verify.shard import ShardJob, audit_shard
from lorat.shards.writer import INDEX_DTYPE, index_path, write_shard
from tests.shards.conftest import flipped

SHARD = 1
STEP = INDEX_DTYPE.itemsize
RNG = np.random.default_rng(20)


@pytest.fixture
def folder(tiny_shards: Path, tmp_path: Path) -> Path:
    """A copy of toy-train: 48 pairs in 3 shards, none left out."""
    return Path(shutil.copytree(tiny_shards / "toy-train", tmp_path / "toy-train"))


@pytest.fixture
def sound(folder: Path) -> list[Sample]:
    return rows_of(load_manifest(folder))


def rows_of(manifest: Manifest) -> list[Sample]:
    reader = open_shard(manifest, SHARD)
    samples = [reader.read(row) for row in range(len(reader))]
    reader.close()
    return samples


def failing_rows(manifest: Manifest, sound: list[Sample], rows: list[int]) -> dict[int, str]:
    """Read rows; whatever can be read must be what was written."""
    reader = open_shard(manifest, SHARD)
    failed = {}
    for row in rows:
        try:
            assert reader.read(row) == sound[row]
        except ShardCorrupt as error:
            failed[row] = error.message
    reader.close()
    return failed


def is_named(message: str, path: Path, row: int, sample: Sample, offset: int) -> bool:
    return message.startswith(f"{path} row {row} ({sample.key}) at byte {offset}: ")


def row_at(index: np.ndarray, byte: int) -> int:
    return int(np.searchsorted(index["offset"], byte, side="right")) - 1


def test_flipped_bits_anywhere_and_all_of_a_frame_header_and_checksum_spoil_one_row_and_name_it(folder, sound):
    manifest = load_manifest(folder)
    path = folder / manifest.shards[SHARD].shard
    whole, index = path.read_bytes(), read_index(path)
    begin, length = int(index[5]["offset"]), int(index[5]["length"])
    header = zstandard.frame_header_size(whole[begin : begin + 18]) + 3  # and the block's
    places = [*range(begin, begin + header), *range(begin + length - 4, begin + length)]
    bits = RNG.choice(8 * len(whole), size=600, replace=False).tolist()
    for bit in [*bits, *(8 * place + b for place in places for b in range(8))]:
        path.write_bytes(flipped(whole, bit))
        row = row_at(index, bit // 8)
        beside = [r for r in (row - 1, row, row + 1) if 0 <= r < len(sound)]
        failed = failing_rows(manifest, sound, beside)
        if row == len(sound):  # the end of the archive, which no sample needs
            (fault,) = audit_shard(ShardJob("toy", "train", folder, manifest.shards[SHARD])).faults
            assert fault.file == str(path) and fault.offset == int(index[row]["offset"])
            assert not failed
        else:
            assert list(failed) == [row]
            assert is_named(failed[row], path, row, sound[row], int(index[row]["offset"]))


def test_every_truncation_spoils_the_rows_it_takes_and_no_other(folder, sound):
    manifest = load_manifest(folder)
    path = folder / manifest.shards[SHARD].shard
    whole, index = path.read_bytes(), read_index(path)
    ends = (index["offset"] + index["length"]).astype(int)
    edges = [cut for end in ends[:-1] for cut in (end - 1, end, end + 1)]
    for cut in [0, 1, *edges, *RNG.integers(len(whole), size=200).tolist()]:
        path.write_bytes(whole[:cut])
        failed = failing_rows(manifest, sound, list(range(len(sound))))
        assert list(failed) == [row for row in range(len(sound)) if ends[row] > cut]
        for row, message in failed.items():
            assert is_named(message, path, row, sound[row], int(index[row]["offset"]))
    path.write_bytes(whole[: ends[-1] - 1])
    (fault,) = audit_shard(ShardJob("toy", "train", folder, manifest.shards[SHARD])).faults
    assert "end of the archive" in fault.what


def test_every_bit_of_an_index_and_its_length_counts(folder):
    manifest = load_manifest(folder)
    path = index_path(folder / manifest.shards[SHARD].shard)
    whole = path.read_bytes()
    wrong, cut = (flipped(whole, bit) for bit in range(8 * len(whole))), (whole[:n] for n in range(len(whole)))
    for data in [*wrong, *cut, whole + whole[:STEP], whole + b"\0"]:
        path.write_bytes(data)
        with pytest.raises(ShardCorrupt, match=re.escape(str(path))):
            open_shard(manifest, SHARD)


def test_without_a_receipt_too_no_bit_of_an_index_leads_to_a_wrong_sample(folder, sound):
    path = folder / load_manifest(folder).shards[SHARD].shard
    whole = index_path(path).read_bytes()
    for bit in range(8 * (len(whole) - STEP)):
        index_path(path).write_bytes(flipped(whole, bit))
        row, byte = divmod(bit // 8, STEP)
        try:
            reader = ShardReader(path)
        except ShardCorrupt as error:
            assert byte < 12, "offset and length"
            assert re.search(rf"\.idx: row {row + (byte >= 8)} at byte \d+ ", error.message)
            continue
        # Without a receipt nothing tells where the pairs of a shard begin and end.
        key = "" if row in (0, len(sound) - 1) else rf" \({sound[row].key}\)"
        with pytest.raises(ShardCorrupt, match=rf"row {row}{key} at byte \d+: "):
            reader.read(row)
        reader.close()


def test_every_bit_of_a_receipt_that_a_build_or_a_reader_relies_on_counts(folder):
    manifest = load_manifest(folder)
    receipt = manifest.shards[SHARD]
    path = receipt_path(folder, receipt.shard)
    whole = path.read_bytes()
    notes = {"bad": (), "jitter_draws": 0, "jitter_outside": 0, "sha256": ""}
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        found = load_receipt(folder, receipt.shard, receipt.config)
        if found is None or found.pairs != receipt.pairs:  # what a build asks, too
            continue
        assert replace(found, **notes) == replace(receipt, **notes)
        if found.sha256 != receipt.sha256:
            faults = audit_shard(ShardJob("toy", "train", folder, found)).faults
            assert str(folder / receipt.shard) in {fault.file for fault in faults}


def test_every_bit_of_a_manifest_that_a_reader_relies_on_counts(folder):
    manifest = load_manifest(folder)
    manifest = replace(manifest, shards=manifest.shards[:1])
    manifest.save()
    path = folder / "manifest.json"
    whole = path.read_bytes()
    told = re.compile(rf"{re.escape(str(folder))}/.*manifest\.json: ", re.DOTALL)
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        try:
            found = load_manifest(folder)
        except UserError as error:
            assert str(path) in error.message or told.match(error.message)
            continue
        assert found.fingerprint() == manifest.fingerprint()
        assert (found.rows, len(found.shards)) == (manifest.rows, len(manifest.shards))
        for number, (a, b) in enumerate(zip(found.shards, manifest.shards, strict=True)):
            assert (a.rows, a.bytes, a.sha256) == (b.rows, b.bytes, b.sha256)
            if (a.shard, a.index_sha256) != (b.shard, b.index_sha256):
                with pytest.raises(ShardCorrupt, match=re.escape(str(folder))):
                    open_shard(found, number)


def test_a_damaged_row_between_pairs_that_were_left_out_is_named_by_a_range(make_sample, tmp_path):
    path = tmp_path / "toy-train-00000.tar.zst"
    write_shard(path, [make_sample(n) for n in (3, 4, 8, 9)])
    index, whole = read_index(path), path.read_bytes()

    def name(*rows: int) -> str:
        damaged = whole
        for row in rows:
            damaged = flipped(damaged, 8 * (int(index[row]["offset"]) + 20))
        path.write_bytes(damaged)
        with pytest.raises(ShardCorrupt) as error:
            ShardReader(path).read(rows[0])
        return error.value.message.removeprefix(f"{path} ").partition(" at byte")[0]

    assert name(1) == "row 1 (toy-train-000000004 to 000000007)"
    assert name(2) == "row 2 (toy-train-000000005 to 000000008)"
    assert name(1, 2) == "row 1 (toy-train-000000004 to 000000007)"
    assert name(0) == "row 0"  # nothing before it, and no receipt to say where the shard begins


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_garbled_json_is_an_error_of_one_line(tiny_shards, tmp_path_factory, data):
    """A manifest in which a value was replaced by any other is refused or read, never a crash."""
    source = tiny_shards / "toy-train" / "manifest.json"
    values = json.loads(source.read_text())
    place = values if data.draw(st.booleans()) else values["shards"][0]
    key = data.draw(st.sampled_from(sorted(place)))
    anything = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    place[key] = data.draw(anything | st.lists(anything, max_size=2))
    folder = tmp_path_factory.mktemp("garbled")
    (folder / "manifest.json").write_text(json.dumps(values))
    try:
        load_manifest(folder)
    except UserError as error:
        assert "manifest.json" in error.message
