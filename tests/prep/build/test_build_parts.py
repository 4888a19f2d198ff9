"""Builds in parts: together they are the build, and merging says what is not there."""

from dataclasses import replace
from pathlib import Path

import pytest

from lorat.prep.build.plan import BuildOptions, BuildPart, make_plan
from lorat.prep.build.run import build, merge, run_plan
from lorat.prep.pool import LocalEngine
from lorat.shards.base.errors import UserError
from lorat.shards.manifest import load_manifest

OPTIONS = BuildOptions(pairs=45, shard_pairs=4, workers=1)  # 12 shards, the last one short


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_clips) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build(tiny_clips, folder, OPTIONS)
    return folder / "toy-train"


def build_part(clips, shards: Path, text: str):
    options = replace(OPTIONS, part=BuildPart.parse(text))
    return run_plan(make_plan(clips, shards, options), LocalEngine(1))


@pytest.mark.parametrize("parts", [1, 3, 5, 20])
def test_parts_in_any_order_merge_into_the_same_build(tiny_clips, tmp_path, whole, parts):
    for number in range(parts, 0, -1):
        report = build_part(tiny_clips, tmp_path, f"{number}/{parts}")
        assert {r.first_pair // 4 % parts for r in report.manifest.shards} <= {number - 1}
        assert not (tmp_path / "toy-train/manifest.json").exists()
    report = merge(make_plan(tiny_clips, tmp_path, OPTIONS))
    assert report.manifest.rows == 45
    assert load_manifest(tmp_path / "toy-train").to_json() == load_manifest(whole).to_json()
    for shard in whole.glob("*.tar.zst"):
        assert (tmp_path / "toy-train" / shard.name).read_bytes() == shard.read_bytes()


def test_merging_names_the_missing_shards_and_the_parts_to_run_again(tiny_clips, tmp_path):
    for text in ("1/4", "3/4"):
        build_part(tiny_clips, tmp_path, text)
    plan = make_plan(tiny_clips, tmp_path, OPTIONS)
    with pytest.raises(UserError) as caught:
        merge(plan)
    message = caught.value.message
    assert "6 of 12 shards are missing" in message
    assert "toy-train-00001.tar.zst, toy-train-00003.tar.zst" in message
    assert "run --part 2/4 and --part 4/4 again" in message
    build_part(tiny_clips, tmp_path, "2/4")
    build_part(tiny_clips, tmp_path, "4/4")
    (tmp_path / "toy-train/toy-train-00006.idx").write_bytes(b"other")
    with pytest.raises(UserError, match=r"1 of 12.*00006.*run --part 3/4 again"):
        merge(plan)
    assert not (tmp_path / "toy-train/manifest.json").exists()


def test_parts_with_other_options_are_not_merged(tiny_clips, tmp_path):
    build_part(tiny_clips, tmp_path, "1/2")
    with pytest.raises(UserError, match="another seed"):
        merge(make_plan(tiny_clips, tmp_path, replace(OPTIONS, seed=1)))
    plan = make_plan(tiny_clips, tmp_path, replace(OPTIONS, seed=1, part=BuildPart(2, 2)))
    with pytest.raises(UserError, match="another seed"):
        run_plan(plan, LocalEngine(1))


def test_a_build_without_parts_finishes_what_parts_began(tiny_clips, tmp_path, whole):
    build_part(tiny_clips, tmp_path, "2/3")
    assert build(tiny_clips, tmp_path, OPTIONS).built == 8
    assert load_manifest(tmp_path / "toy-train").to_json() == load_manifest(whole).to_json()


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/3", "1/2/3"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="part"):
        BuildPart.parse(text)
