"""The log of a build: every run, every shard, every pair that was skipped and why."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lorat.prep.build.plan import BuildOptions, BuildPart, make_plan
from lorat.prep.build.run import build, run_plan
from lorat.prep.pool import LocalEngine
from lorat.shards.base.errors import UserError

OPTIONS = BuildOptions(pairs=48, shard_pairs=8, workers=1)


def events(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


@pytest.fixture
def damaged(tiny_clips, tmp_path):
    """A sequence with one image cut in half and one of another size."""
    clip = tiny_clips[-1]
    folder = tmp_path / "frames"
    shutil.copytree(clip.frames.folder, folder)
    bad = folder / "00000003.jpg"
    bad.write_bytes(bad.read_bytes()[:700])
    return replace(clip, frames=replace(clip.frames, folder=folder), size=(128, 96))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_skipped_pair_is_logged_with_its_reason(damaged, tiny_clips, tmp_path, workers):
    wrong_size = replace(tiny_clips[1], size=(127, 96))
    options = replace(OPTIONS, workers=workers, max_bad=48)
    report = build([damaged, wrong_size, tiny_clips[2]], tmp_path / "shards", options)
    log = events(tmp_path / "shards/toy-train/build.log")
    assert [e["event"] for e in log if e["event"] != "skipped"] == ["start", *["shard"] * 6, "end"]
    skipped = [e for e in log if e["event"] == "skipped"]
    assert Counter(e["reason"] for e in skipped) == report.manifest.skipped
    assert len(report.manifest.skipped) == 2
    assert len({e["pair"] for e in skipped}) == 48 - report.manifest.rows
    lost = [e["detail"] for e in skipped if e["lost"]]
    assert lost and all("00000003.jpg" in text for text in lost)
    other = next(e for e in skipped if not e["lost"])
    assert other["sequence"] == wrong_size.name and "128x96" in other["detail"]
    shards = [e for e in log if e["event"] == "shard"]
    assert shards[-1]["pairs_done"] == shards[-1]["pairs"] == 48
    assert shards[-1]["seconds_left"] == 0


def test_runs_append_even_after_half_a_line(tiny_clips, tmp_path):
    build(tiny_clips, tmp_path, replace(OPTIONS, pairs=24))
    log = tmp_path / "toy-train/build.log"
    with log.open("a") as file:
        file.write('{"time": "2026-')  # killed here
    build(tiny_clips, tmp_path, OPTIONS)
    lines = log.read_text().splitlines()
    broken = [line for line in lines if line == '{"time": "2026-']
    assert len(broken) == 1
    starts = [e for e in map(json.loads, set(lines) - set(broken)) if e["event"] == "start"]
    assert sorted(e["to_build"] for e in starts) == [3, 3]


def test_an_error_is_the_last_line(damaged, tmp_path):
    with pytest.raises(UserError) as caught:
        build([damaged], tmp_path / "shards", OPTIONS)
    last = events(tmp_path / "shards/toy-train/build.log")[-1]
    assert (last["event"], last["error"]) == ("failed", caught.value.message)


def test_a_log_that_cannot_be_written_says_what_to_do(tiny_clips, tmp_path):
    (tmp_path / "toy-train/build.log").mkdir(parents=True)
    with pytest.raises(UserError, match=r"build\.log: cannot be written \(Is a directory\); .*run again"):
        build(tiny_clips, tmp_path, OPTIONS)


def test_parts_have_a_log_each(tiny_clips, tmp_path):
    for number in (1, 2):
        plan = make_plan(tiny_clips, tmp_path, replace(OPTIONS, part=BuildPart(number, 2)))
        run_plan(plan, LocalEngine(1))
    folder = tmp_path / "toy-train"
    assert sorted(p.name for p in folder.glob("*.log")) == ["build-1-of-2.log", "build-2-of-2.log"]
