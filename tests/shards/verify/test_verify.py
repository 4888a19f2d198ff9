"""An audit finds every kind of damage, and says where: shard, row, key, byte."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorat.shards.base.storage import write_json
from lorat.shards.manifest import Manifest, Receipt, receipt_path, shard_name
from lorat.shards.pixels.jpeg import encode
from lorat.shards.reader import read_index
from lorat.shards.sample import Sample, sample_key
from lorat.shards.verify.shard import ShardFault, audit_shard, walk_frames
from lorat.shards.verify.verify import plan_audit
from lorat.shards.writer import index_path, write_shard
from tests.shards.conftest import _make_sample, flipped

STEP = 24  # bytes of an index row
RNG = np.random.default_rng(7)
SEARCH, TEMPLATE = (encode(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8), 60) for side in (64, 32))
FEW = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sample(pair: int) -> Sample:
    plain = _make_sample(pair)
    images = replace(plain.templates[0], jpeg=TEMPLATE), replace(plain.searches[0], jpeg=SEARCH)
    return replace(plain, templates=images[:1], searches=images[1:])


def write_set(folder: Path, shards: list[tuple[int, list[Sample]]]) -> Path:
    """Write shards of (pairs drawn, samples) and their manifest."""
    receipts, first = [], 0
    for number, (drawn, samples) in enumerate(shards):
        name = shard_name("toy", "train", number)
        folder.mkdir(parents=True, exist_ok=True)
        summary = write_shard(folder / name, samples)
        lost = drawn - len(samples)
        skipped = {"too few windows": lost} if lost else {}
        receipt = Receipt(name, first, drawn, **asdict(summary), config="c0ffee", skipped=skipped)
        write_json(receipt_path(folder, name), asdict(receipt))
        receipts.append(receipt)
        first += drawn
    Manifest("toy", "train", {"seed": 1, "codec": "x"}, tuple(receipts), folder).save()
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shard 0 is full; in shard 1, pairs 13, 14 and 17 were skipped."""
    kept = [n for n in range(8, 20) if n not in (13, 14, 17)]
    shards = [(8, [sample(n) for n in range(8)]), (12, [sample(n) for n in kept])]
    return write_set(tmp_path_factory.mktemp("written") / "toy-train", shards)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "toy-train"))


def audit(folder: Path, deep: bool = False) -> list[ShardFault]:
    found, jobs = plan_audit(folder, deep)
    for job in jobs:
        found.add(audit_shard(job))
    return found.faults


def flip(path: Path, bit: int) -> None:
    path.write_bytes(flipped(path.read_bytes(), bit))


def damaged(folder: Path, name: str, change: Callable[[Path], None]) -> list[ShardFault]:
    """Return what is found while one file is damaged; the file is put back."""
    path = folder / name
    before = path.read_bytes()
    change(path)
    try:
        return audit(folder)
    finally:
        path.write_bytes(before)


def keys(folder: Path, number: int) -> list[str]:
    skipped = (13, 14, 17)
    pairs = range(8) if number == 0 else [n for n in range(8, 20) if n not in skipped]
    return [sample_key("toy", "train", n) for n in pairs]


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_found_in_what_was_just_written(folder, deep):
    found, jobs = plan_audit(folder, deep)
    assert found.faults == found.notes == []
    audits = [audit_shard(job) for job in jobs]
    assert [a.faults for a in audits] == [(), ()]
    assert [a.rows for a in audits] == [8, 9]
    assert [a.bytes for a in audits] == [job.receipt.bytes for job in jobs]


@FEW
@given(st.data())
def test_a_flipped_bit_of_a_shard_is_named_by_row_key_and_byte(folder, data):
    number = data.draw(st.sampled_from([0, 1]))
    name = shard_name("toy", "train", number)
    index = read_index(folder / name)
    bit = data.draw(st.integers(0, 8 * (folder / name).stat().st_size - 1))
    faults = damaged(folder, name, lambda path: flip(path, bit))
    row = int(np.searchsorted(index["offset"], bit // 8, side="right")) - 1
    assert len(faults) == 1
    assert faults[0].shard == faults[0].file == str(folder / name)
    assert faults[0].offset == index[row]["offset"]
    if row == len(index) - 1:
        assert faults[0].row is None and "end of the archive" in faults[0].what
    else:
        assert faults[0].row == row
        assert keys(folder, number)[row][-9:] in range_of(faults[0].key)


def range_of(key: str | None) -> list[str]:
    """The pair numbers that a fault's key allows."""
    assert key is not None
    low, _, high = key.removeprefix("toy-train-").partition(" to ")
    return [f"{n:09d}" for n in range(int(low), int(high or low) + 1)]


@FEW
@given(st.data())
def test_a_flipped_bit_of_an_index_is_named_and_the_shard_is_not_blamed(folder, data):
    name = shard_name("toy", "train", 1)
    place = index_path(folder / name)
    bit = data.draw(st.integers(0, 8 * place.stat().st_size - 1))
    faults = damaged(folder, place.name, lambda path: flip(path, bit))
    row = bit // 8 // STEP
    assert [(f.file, f.row, f.offset) for f in faults] == [(str(place), row, row * STEP)]
    assert faults[0].shard == str(folder / name)


@FEW
@given(st.data())
def test_a_flipped_bit_of_a_receipt_or_manifest_is_found(folder, data):
    name = data.draw(st.sampled_from(["manifest.json", "toy-train-00001.receipt.json"]))
    bit = data.draw(st.integers(0, 8 * (folder / name).stat().st_size - 1))
    faults = damaged(folder, name, lambda path: flip(path, bit))
    assert faults
    kinds = {(f.file, re.sub(r"\d+", "n", f.what)) for f in faults}
    assert len(kinds) < 6, "one damaged byte is not a flood of faults"


@FEW
@given(st.data())
def test_a_cut_shard_is_named_by_the_first_row_that_is_lost(folder, data):
    name = shard_name("toy", "train", 1)
    index = read_index(folder / name)
    size = data.draw(st.integers(0, (folder / name).stat().st_size - 1))
    faults = damaged(folder, name, lambda path: path.write_bytes(path.read_bytes()[:size]))
    lost = int(np.flatnonzero(index["offset"] + index["length"] > size)[0])
    assert len(faults) == 1 and "cut" in faults[0].what
    if lost == len(index) - 1:
        assert (faults[0].row, faults[0].offset) == (None, size)
    else:
        assert (faults[0].row, faults[0].offset) == (lost, min(size, index[lost]["offset"]))
        assert keys(folder, 1)[lost][-9:] in range_of(faults[0].key)


def test_every_fault_is_listed_not_only_the_first(folder):
    for number, rows in ((0, (1, 6)), (1, (0, 3, 8))):
        shard = folder / shard_name("toy", "train", number)
        index = read_index(shard)
        for row in rows:
            flip(shard, 8 * (int(index[row]["offset"]) + 30))
    found = [(f.row, f.key) for f in audit(folder)]
    first, second = keys(folder, 0), keys(folder, 1)
    assert found == [(r, first[r]) for r in (1, 6)] + [(r, second[r]) for r in (0, 3, 8)]


def test_rows_are_checked_by_the_shard_itself_where_the_index_is_gone(folder):
    name = shard_name("toy", "train", 0)
    index_path(folder / name).unlink()
    result = audit_shard(plan_audit(folder)[1][0])
    assert [f.what for f in result.faults] == ["is missing"]
    assert result.rows == 8


def test_a_damaged_index_and_a_damaged_shard_are_both_named(folder):
    shard = folder / shard_name("toy", "train", 0)
    index = read_index(shard)
    flip(shard, 8 * int(index[2]["offset"]) + 77)
    flip(index_path(shard), 8 * (5 * STEP + 16))  # the hash of row 5
    files = [(Path(f.file).name, f.row) for f in audit(folder)]
    assert files == [(index_path(shard).name, None), (shard.name, 2), (shard.name, 5)]


@pytest.mark.parametrize("offset", [1 << 40, (1 << 64) - 8])
def test_an_index_entry_far_outside_the_file_does_no_harm(folder, offset):
    shard = folder / shard_name("toy", "train", 0)
    index = read_index(shard).copy()
    flip(shard, 4000)
    index["offset"][4], index["length"][8] = offset, 0xFFFFFFFF
    index_path(shard).write_bytes(index.tobytes())
    found = audit(folder)
    assert any(f.row == 4 and "past the end" in f.what for f in found)


def test_missing_files_and_bytes_after_the_end_are_named(folder):
    first, second = (folder / shard_name("toy", "train", number) for number in (0, 1))
    size = first.stat().st_size
    with first.open("ab") as file:
        file.write(b"more")
    second.unlink()
    receipt = receipt_path(folder, second.name)
    receipt.unlink()
    named = [(f.file, f.shard, f.offset, f.what) for f in audit(folder)]
    assert named == [
        (str(first), str(first), size, "4 bytes follow the last that was written"),
        (str(receipt), str(second), None, named[1][3]),
        (str(second), str(second), None, "is missing"),
    ]


def test_a_shard_of_another_build_is_named(folder, tmp_path):
    other = write_set(tmp_path / "other", [(8, [sample(n) for n in range(1, 9)])])
    name = shard_name("toy", "train", 0)
    for path in (folder / name, index_path(folder / name), receipt_path(folder, name)):
        shutil.copy(other / path.name, path)
    assert {f.shard for f in audit(folder)} == {str(folder / name)}


def test_shards_are_checked_by_their_receipts_where_the_manifest_is_garbled(folder):
    (folder / "manifest.json").write_text('{"version": 1')
    shard = folder / shard_name("toy", "train", 1)
    flip(shard, 999)
    first, second = audit(folder)
    assert first.file.endswith("manifest.json") and "not JSON" in first.what
    assert (second.file, second.row, second.key) == (str(shard), 0, keys(folder, 1)[0])


def test_a_manifest_whose_shards_do_not_follow_each_other_is_named(folder):
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    values["shards"].reverse()
    path.write_text(json.dumps(values))
    assert any("instead of toy-train-00000.tar.zst" in f.what for f in audit(folder))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("box", (20.0, float("nan"), 60.0, 52.0), "JSON"),
        ("box", (20.0, 30.0, 20.0, 52.0), "no width"),
        ("box", (20.0, 30.0, 60.0, 12.0), "no height"),
        ("box", (200.0, 30.0, 260.0, 52.0), "outside the stored window"),
        ("frame", -1, "search.frame"),
        ("frame", 1.5, "search.frame"),
        ("frame_size", (0, 96), "frame_size"),
        ("frame_size", (60, 96), "past the frame's width"),
        ("mean", (101.0, 300.0, 80.0), "mean"),
        ("origin", (-1, 20), "origin"),
        ("origin", (64, 1), "no width"),
        ("window", (64, 65, 3), "window"),
        ("size", (48, 0), "size"),
        ("size", (65, 36), "more than the window's"),
    ],
)
def test_a_sample_whose_json_makes_no_sense_is_named(tmp_path, field, value, says):
    good = sample(1)
    bad = replace(good, searches=(replace(good.searches[0], **{field: value}),))
    folder = write_set(tmp_path / "toy-train", [(3, [sample(0), bad, sample(2)])])
    faults = audit(folder)
    assert faults and {(f.row, f.key) for f in faults} == {(1, bad.key)}
    assert any(says in f.what for f in faults), [f.what for f in faults]


def test_keys_out_of_order_or_of_another_set_are_named(tmp_path):
    pairs = [sample(0), sample(2), sample(1), replace(sample(3), key="other-train-000000003")]
    folder = write_set(tmp_path / "toy-train", [(4, pairs)])
    order, name = audit(folder)
    assert (order.row, order.key) == (2, sample_key("toy", "train", 1))
    assert "not after" in order.what
    assert name.row == 3 and "none of this shard" in name.what


def test_a_sample_of_another_data_set_is_named(tmp_path):
    folder = write_set(tmp_path / "toy-train", [(1, [replace(sample(0), split="val")])])
    assert [f.what for f in audit(folder)] == ["JSON names the data set toy-val"]


@pytest.mark.parametrize(("jpeg", "says"), [(SEARCH[:-40], "does not decode"), (TEMPLATE, "is 32x32")])
def test_images_that_are_not_what_the_json_says_are_found_by_decoding(tmp_path, jpeg, says):
    bad = replace(sample(0), searches=(replace(sample(0).searches[0], jpeg=jpeg),))
    folder = write_set(tmp_path / "toy-train", [(2, [bad, sample(1)])])
    assert audit(folder) == []
    (fault,) = audit(folder, deep=True)
    assert (fault.row, fault.key) == (0, bad.key)
    assert says in fault.what


def test_files_that_belong_to_nothing_are_noted_and_are_no_fault(folder):
    for name in ("toy-train-00002.tar.zst", ".toy-train-00002.idx.host-17.tmp", "notes.txt"):
        (folder / name).write_bytes(b"x")
    found, _ = plan_audit(folder)
    assert found.faults == []
    assert [note.partition(":")[0] for note in found.notes] == [
        ".toy-train-00002.idx.host-17.tmp",
        "toy-train-00002.tar.zst",
        "notes.txt",
    ]


def test_the_frames_of_a_shard_are_found_without_its_index(tmp_path):
    # Runs, literals, and more than one block of 128 KB.
    long = np.random.default_rng(1).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
    images = (SEARCH, bytes(400_000), long, b"ab" * 90_000)
    samples = [
        replace(sample(n), searches=(replace(sample(n).searches[0], jpeg=jpeg),)) for n, jpeg in enumerate(images)
    ]
    write_shard(tmp_path / "x.tar.zst", samples)
    assert (walk_frames(tmp_path / "x.tar.zst") == read_index(tmp_path / "x.tar.zst")).all()


def test_a_shard_of_which_every_pair_was_skipped_is_whole(tmp_path):
    folder = write_set(tmp_path / "toy-train", [(4, []), (2, [sample(4), sample(5)])])
    assert audit(folder) == []
