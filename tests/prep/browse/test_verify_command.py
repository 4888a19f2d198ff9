"""``lorat-prep verify`` lists all damage, says what to do, and its exit status says whether."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.prep.cli import main
from lorat.shards.reader import read_index


@pytest.fixture
def shards(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


def verify(*arguments: str | Path) -> Result:
    command = ["verify", *(str(a) for a in arguments)]
    return CliRunner().invoke(main, command, env={"COLUMNS": "80"})


def damage(shard: Path, row: int) -> None:
    data = bytearray(shard.read_bytes())
    data[int(read_index(shard)[row]["offset"]) + 40] ^= 0x10
    shard.write_bytes(data)


@pytest.mark.parametrize("options", [("--workers", "1"), ("--workers", "2", "--deep")])
def test_whole_shards_end_in_status_0(shards, options):
    result = verify(shards, *options)
    assert result.exit_code == 0, result.output
    assert "All whole" in result.output
    assert "damaged:" not in result.output
    assert max(len(line) for line in result.output.splitlines()) <= 80


def test_all_damage_is_listed_and_only_damaged_shards_are_built_again(shards, tiny_clips, tmp_path):
    folder = shards / "toy-train"
    whole = {p.name: p.read_bytes() for p in folder.glob("*.tar.zst")}
    first, third = folder / "toy-train-00000.tar.zst", folder / "toy-train-00002.tar.zst"
    damage(first, 2)
    damage(first, 9)
    damage(third, 0)
    report = tmp_path / "faults.json"
    result = verify(shards, "--workers", "2", "--json", report)
    assert result.exit_code == 1
    damaged = [line for line in result.output.splitlines() if line.startswith("damaged: ")]
    assert len(damaged) == 3
    for line, shard, row in zip(damaged, (first, first, third), (2, 9, 0), strict=True):
        offset = int(read_index(shard)[row]["offset"])
        assert line.startswith(f"damaged: {shard} row {row} (toy-train-")
        assert f"at byte {offset}:" in line
    faults = [f for s in json.loads(report.read_text())["sets"] for f in s["faults"]]
    assert [(f["shard"], f["row"]) for f in faults] == [(str(first), 2), (str(first), 9), (str(third), 0)]
    remedy = result.output.partition("Delete these")[2]
    named = [line.strip() for line in remedy.splitlines() if line.startswith("  ")]
    assert named == [str(first), str(third)]

    for path in named:
        Path(path).unlink()
    report_of_build = build(tiny_clips, shards, BuildOptions(pairs=48, shard_pairs=16, workers=1))
    assert report_of_build.built == 2
    assert {p.name: p.read_bytes() for p in folder.glob("*.tar.zst")} == whole
    assert verify(shards).exit_code == 0


def test_a_long_run_of_damaged_rows_is_one_line(shards):
    shard = shards / "toy-train" / "toy-train-00001.tar.zst"
    index = read_index(shard)
    data = bytearray(shard.read_bytes())
    begin, end = int(index[3]["offset"]), int(index[11]["offset"])
    data[begin:end] = bytes(end - begin)
    shard.write_bytes(data)
    damaged = [line for line in verify(shards).output.splitlines() if line[:8] == "damaged:"]
    assert len(damaged) == 1
    assert "rows 3 to 10 (toy-train-" in damaged[0]
    assert f"from byte {begin} to {int(index[10]['offset'])}" in damaged[0]


def test_other_files_and_unfinished_builds_are_notes(shards):
    (shards / "toy-train" / "notes.txt").write_text("mine")
    (shards / "toy-test").mkdir()
    (shards / "toy-test" / "toy-test-00000.tar.zst").write_bytes(b"")
    result = verify(shards)
    assert result.exit_code == 0
    assert "notes.txt: belongs to no manifest" in result.output
    assert "toy-test: no manifest, so its build has not ended" in result.output


def test_a_mistake_on_the_command_line_is_status_2(shards):
    for arguments, says in (
        ([shards / "nowhere"], "no shards here"),
        ([shards, "--datasets=lasot"], "unknown shard set"),
    ):
        result = verify(*arguments)
        assert result.exit_code == 2 and says in result.output


@pytest.fixture
def bucket(s3, shards: Path):
    """The shards in an S3 bucket: the place, and a client to damage them with."""
    fsspec = pytest.importorskip("fsspec")
    client = fsspec.filesystem("s3", use_listings_cache=False)
    client.put(f"{shards}/", f"{s3.bucket}/shards/", recursive=True)
    return f"{s3.url}/shards", client


def test_shards_in_a_store_are_checked_like_local_ones(bucket):
    url, client = bucket
    whole = verify(url, "--workers", "2", "--deep")
    assert whole.exit_code == 0, whole.output
    flipped, removed = (f"{url}/toy-val/toy-val-00001.tar.zst", f"{url}/toy-train/toy-train-00000.idx")
    data = bytearray(client.cat_file(flipped))
    data[100] ^= 1
    client.pipe_file(flipped, bytes(data))
    client.rm(removed)
    result = verify(url, "--workers", "2")
    assert result.exit_code == 1
    damaged = [line for line in result.output.splitlines() if line[:8] == "damaged:"]
    assert damaged[0] == f"damaged: {removed}: is missing"
    assert damaged[1].startswith(f"damaged: {flipped} row 0 (toy-val-000000010) at byte 0")
    assert len(damaged) == 2


def test_shards_in_a_store_can_be_looked_at(bucket, tmp_path):
    url, _ = bucket
    told = CliRunner().invoke(main, ["stats", url])
    assert told.exit_code == 0, told.output
    assert "toy-val" in told.output
    command = ["inspect", url, "--number", "2", "--out", str(tmp_path / "x.png")]
    seen = CliRunner().invoke(main, command)
    assert seen.exit_code == 0, seen.output
    assert (tmp_path / "x.png").is_file()
