"""From a damaged tree to shards: check finds what stops a build, and the build leaves it out."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lorat.prep.cli import main
from lorat.prep.toy.write import ToyWorldConfig, write_toyworld
from lorat.shards.manifest import load_manifest
from lorat.shards.reader import ShardReader


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("raw")
    kinds = ("_train", "_test", "_val", "_ext")
    counts = {f.name: 0 for f in fields(ToyWorldConfig) if f.name.endswith(kinds)}
    counts["lasot_train"] = 5
    write_toyworld(raw, ToyWorldConfig(width=160, height=120, lasot_length=10, **counts), None, 1)
    return raw


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(whole, tmp_path / "raw")
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def truncate_middle(folder: Path) -> None:
    images = sorted((folder / "img").iterdir())
    middle = images[len(images) // 2]
    middle.write_bytes(middle.read_bytes()[: middle.stat().st_size // 2])


def spoil_line(folder: Path) -> None:
    truth = folder / "groundtruth.txt"
    truth.write_text("1,2,three,4\n" + truth.read_text().partition("\n")[2])


def remove_last(folder: Path) -> None:
    sorted((folder / "img").iterdir())[-1].unlink()


def lengthen_flags(folder: Path) -> None:
    flags = folder / "out_of_view.txt"
    flags.write_text(flags.read_text().strip() + ",0\n")


Damage = Callable[[Path], None]
DAMAGES: tuple[Damage, ...] = (truncate_middle, spoil_line, remove_last, lengthen_flags)


def sequences(raw: Path) -> list[Path]:
    return sorted((raw / "LaSOT").glob("*/*-*"))


def run(command: str, *options: str) -> Result:
    return CliRunner().invoke(main, [command, "--raw=raw", "--datasets=lasot", *options])


def build(*options: str) -> Result:
    return run("build", "--shards=shards", "--pairs=60", "--workers=1", *options)


def built(folder: Path) -> list[tuple[str, int, int]]:
    """Return (sequence, template frame, search frame) of every pair."""
    readers = [ShardReader(folder / shard.shard) for shard in load_manifest(folder).shards]
    samples = [reader.read(row) for reader in readers for row in range(len(reader))]
    return [(s.sequence, s.templates[0].frame, s.searches[0].frame) for s in samples]


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_stops_a_build_and_is_left_out_by_the_report(here, damage):
    damage(sequences(here / "raw")[1])
    refused = build()
    assert refused.exit_code == 2 and len(refused.stderr.strip().splitlines()) == 1
    shutil.rmtree(here / "shards", ignore_errors=True)
    assert run("check", "--deep", "--workers=1").exit_code == 1
    result = build("--exclude=check.json")
    assert result.exit_code == 0, result.output
    assert load_manifest(here / "shards" / "lasot-train").rows == 60


def test_check_finds_exactly_the_damage_and_no_pair_shows_it(here):
    folders = sequences(here / "raw")
    for damage, folder in zip(DAMAGES, folders, strict=False):
        damage(folder)
    assert run("check", "--deep", "--workers=1").exit_code == 1
    report = json.loads((here / "check.json").read_text())["datasets"]["lasot-train"]["sequences"]
    found = {
        name: [(f["kind"], f["frames"]) for f in findings if f["severity"] == "damage"]
        for name, findings in report.items()
    }
    middle, last = (len(list((folders[k] / "img").iterdir())) for k in (0, 2))
    expected = {
        folders[0].name: [("damaged image", [middle // 2])],
        folders[1].name: [("annotations", [])],
        folders[2].name: [("missing image", [last])],
        folders[3].name: [("annotations", [])],
    }
    assert {name: kinds for name, kinds in found.items() if kinds} == expected
    assert build("--exclude=check.json").exit_code == 0
    pairs = built(here / "shards" / "lasot-train")
    assert {name for name, *_ in pairs} == {folders[k].name for k in (0, 2, 4)}
    for name, template, search in pairs:
        damaged = {f for _, frames in expected.get(name, []) for f in frames}
        assert not damaged & {template, search}


def test_a_report_without_damage_changes_no_byte(here):
    assert run("check", "--deep", "--workers=1").exit_code == 0
    assert build().exit_code == 0
    folder = here / "shards" / "lasot-train"
    before = {path.name: path.read_bytes() for path in folder.glob("*.tar.zst")}
    assert build("--exclude=check.json").exit_code == 0  # goes on in the same folder
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.tar.zst")}


def test_a_build_is_not_continued_with_another_report(here):
    assert build().exit_code == 0
    lengthen_flags(sequences(here / "raw")[1])
    run("check", "--workers=1")
    refused = build("--exclude=check.json")
    assert refused.exit_code == 2 and "shards" in refused.stderr.strip().splitlines()[-1]
