"""Builds: the same bytes however they are run, resumable, open about what was not stored."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lorat.prep.annotations.index import indexed_clips
from lorat.prep.build import folder as folder_module
from lorat.prep.build import plan as plan_module
from lorat.prep.build.folder import PLAN, begin
from lorat.prep.build.plan import BuildOptions, make_plan
from lorat.prep.build.run import build, merge, run_plan
from lorat.prep.pairs.crop import CropOptions, cut_sample
from lorat.prep.pairs.draw import SampleDraw
from lorat.prep.pool import LocalEngine
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.registry import DATASETS
from lorat.shards.base.errors import UserError
from lorat.shards.manifest import load_manifest
from lorat.shards.pixels.jpeg import decode, read_image
from lorat.shards.pixels.resample import RESAMPLER
from lorat.shards.reader import ShardReader

OPTIONS = BuildOptions(pairs=48, shard_pairs=16, workers=1)


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.tar.zst"))}


@pytest.mark.parametrize("workers", [2, 9])
def test_any_number_of_workers_gives_the_same_bytes(tiny_clips, tiny_shards, tmp_path, workers):
    build(tiny_clips, tmp_path, replace(OPTIONS, workers=workers))
    assert shard_bytes(tmp_path / "toy-train") == shard_bytes(tiny_shards / "toy-train")
    manifest, other = (load_manifest(f / "toy-train") for f in (tmp_path, tiny_shards))
    assert manifest.fingerprint() == other.fingerprint()


def test_a_finished_build_does_nothing_and_an_unfinished_one_goes_on(tiny_clips, tmp_path):
    first = build(tiny_clips, tmp_path, OPTIONS)
    assert (first.built, build(tiny_clips, tmp_path, OPTIONS).built) == (3, 0)
    folder = tmp_path / "toy-train"
    before = shard_bytes(folder)
    (folder / "toy-train-00001.receipt.json").unlink()
    (folder / "toy-train-00002.tar.zst").write_bytes(b"half")
    assert build(tiny_clips, tmp_path, OPTIONS).built == 2
    assert shard_bytes(folder) == before


def test_a_longer_build_keeps_the_shards_that_are_there(tiny_clips, tmp_path):
    build(tiny_clips, tmp_path, replace(OPTIONS, pairs=40))
    before = shard_bytes(tmp_path / "toy-train")
    report = build(tiny_clips, tmp_path, replace(OPTIONS, pairs=64))
    after = shard_bytes(tmp_path / "toy-train")
    assert report.built == 2  # the last one was short
    assert [after[n] == before[n] for n in sorted(before)] == [True, True, False]
    assert report.manifest.rows == 64


def test_a_damaged_frame_stops_the_build_by_name_and_keeps_finished_shards(tiny_clips, tmp_path):
    clip = tiny_clips[-1]
    copied = tmp_path / "copy"
    clip = replace(clip, frames=replace(clip.frames, folder=Path(shutil.copytree(clip.frames.folder, copied))))
    bad = copied / "00000003.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    options = replace(OPTIONS, shard_pairs=4)
    with pytest.raises(UserError, match=r"00000003\.jpg.*--max-bad 0|00000003\.jpg.*allows 0"):
        build([clip], tmp_path, options)
    kept = shard_bytes(tmp_path / "toy-train")
    assert list((tmp_path / "toy-train").glob("*.receipt.json")) and kept
    report = build([clip], tmp_path, replace(options, max_bad=48))
    assert report.manifest.rows == 48 - report.manifest.skipped["frame does not decode"]
    assert all(Path(m.split(":")[0]).name == bad.name for s in report.manifest.shards for m in s.bad)
    bad.write_bytes(whole)
    mended = build([clip], tmp_path, options)
    assert mended.manifest.rows == 48
    now = shard_bytes(tmp_path / "toy-train")
    assert sum(now[name] == data for name, data in kept.items()) >= len(kept) - 1


def test_a_frame_of_another_size_is_counted_and_left_out(tiny_clips, tmp_path):
    clip = tiny_clips[1]
    wrong = replace(clip, size=(127, 96))
    with pytest.raises(UserError, match=r"none of 48 pairs .*48 times frame size differs"):
        build([wrong], tmp_path, OPTIONS)
    report = build([wrong, tiny_clips[2]], tmp_path / "mixed", OPTIONS)
    left_out = report.manifest.skipped["frame size differs within the sequence"]
    assert 0 < left_out < 48
    assert report.manifest.rows == 48 - left_out


def test_a_tree_without_clips_is_refused(tmp_path):
    with pytest.raises(UserError, match="no sequence"):
        build([], tmp_path, OPTIONS)
    assert not list(tmp_path.iterdir())


def test_another_configuration_in_the_same_folder_is_refused_whether_finished_or_not(tiny_clips, tmp_path):
    build(tiny_clips, tmp_path, OPTIONS)
    before = shard_bytes(tmp_path / "toy-train")
    with pytest.raises(UserError, match="another seed"):
        build(tiny_clips, tmp_path, replace(OPTIONS, seed=7))
    (tmp_path / "toy-train" / "manifest.json").unlink()
    with pytest.raises(UserError, match="another quality"):
        build(tiny_clips, tmp_path, replace(OPTIONS, crops=CropOptions(quality=80)))
    assert shard_bytes(tmp_path / "toy-train") == before


OLDER = ("drawing", "resampler")  # keys of the configuration that came later


def begin_as_an_older_release(clips, shards, options):
    plan = make_plan(clips, shards, options)
    older = replace(plan, config={key: value for key, value in plan.config.items() if key not in OLDER})
    return run_plan(older, LocalEngine(1)).manifest


def test_a_build_begun_by_an_older_release_goes_on_as_it_is(tiny_clips, tmp_path):
    before = begin_as_an_older_release(tiny_clips, tmp_path, replace(OPTIONS, pairs=32))
    report = build(tiny_clips, tmp_path, OPTIONS)
    assert (report.built, report.manifest.shards[:2]) == (1, before.shards)
    assert report.manifest.config == before.config
    new = build(tiny_clips, tmp_path / "new", OPTIONS).manifest
    assert {key: new.config[key] for key in OLDER} == {"drawing": 1, "resampler": RESAMPLER}
    assert [shard.sha256 for shard in new.shards] == [shard.sha256 for shard in report.manifest.shards]


@pytest.mark.parametrize("key", OLDER)
def test_a_build_by_other_rules_or_another_resampler_is_refused(tiny_clips, tmp_path, monkeypatch, key):
    build(tiny_clips, tmp_path, OPTIONS)
    monkeypatch.setattr(plan_module, {"drawing": "DRAWING", "resampler": "RESAMPLER"}[key], "other")
    with pytest.raises(UserError, match=f"built with another {key} .* instead of other"):
        build(tiny_clips, tmp_path, OPTIONS)


def test_other_rules_do_not_go_on_with_an_older_build(tiny_clips, tmp_path, monkeypatch):
    begin_as_an_older_release(tiny_clips, tmp_path, OPTIONS)
    monkeypatch.setattr(plan_module, "DRAWING", 2)
    monkeypatch.setattr(folder_module, "DRAWING", 2)
    with pytest.raises(UserError, match=r"another drawing \(None instead of 2\)"):
        build(tiny_clips, tmp_path, OPTIONS)


def test_nothing_was_built_so_another_configuration_is_fine(tiny_clips, tmp_path):
    plan = make_plan(tiny_clips, tmp_path, OPTIONS)
    begin(plan)
    report = build(tiny_clips, tmp_path, replace(OPTIONS, seed=7))
    assert report.manifest.config["seed"] == 7


def test_finished_shards_are_not_thrown_away_for_fewer_pairs_nor_hidden_by_a_damaged_last_one(tiny_clips, tmp_path):
    build(tiny_clips, tmp_path, OPTIONS)
    before = shard_bytes(tmp_path / "toy-train")
    for pairs in (8, 16, 47):
        with pytest.raises(UserError, match="--pairs 48 or more"):
            build(tiny_clips, tmp_path, replace(OPTIONS, pairs=pairs))
    (tmp_path / "toy-train/toy-train-00002.idx").write_bytes(b"damaged")
    with pytest.raises(UserError, match="--pairs 32 or more"):
        build(tiny_clips, tmp_path, replace(OPTIONS, pairs=16))
    assert shard_bytes(tmp_path / "toy-train") == before


@pytest.mark.parametrize("text", ["{}", "[1]", '{"version": 2, "config": {}, "parts": 1}', "half"])
def test_a_plan_of_another_kind_is_refused_by_name_and_may_be_deleted(tiny_clips, tmp_path, text):
    build(tiny_clips, tmp_path, OPTIONS)
    folder = tmp_path / "toy-train"
    (folder / "manifest.json").unlink()
    (folder / PLAN).write_text(text)
    plan = make_plan(tiny_clips, tmp_path, OPTIONS)
    for run in (lambda: build(tiny_clips, tmp_path, OPTIONS), lambda: merge(plan)):
        with pytest.raises(UserError, match=r"plan\.json: is not .*delete it and run again"):
            run()
    (folder / PLAN).unlink()
    assert build(tiny_clips, tmp_path, OPTIONS).built == 0


def test_an_index_and_a_list_of_the_same_clips_give_the_same_build(write_tree, tmp_path):
    write_tree(tmp_path / "mine", sequences=3)
    index = indexed_clips(DATASETS["generic"], "train", tmp_path / "mine", cache=tmp_path / "c")
    options = BuildOptions(pairs=24, shard_pairs=8, workers=2)
    from_index = build(index, tmp_path / "a", options)
    from_list = build(list(index), tmp_path / "b", options)
    assert from_index.manifest.fingerprint() == from_list.manifest.fingerprint()
    assert shard_bytes(tmp_path / "a/generic-train") == shard_bytes(tmp_path / "b/generic-train")


def test_stored_boxes_and_pixels_are_those_of_the_frame(tiny_clips):
    clip: Clip = replace(tiny_clips[2], size=(128, 96))
    sample = cut_sample(clip, SampleDraw(2, 0, (1,), (4,)), "toy-train-000000000", CropOptions(quality=100))
    assert (sample.templates[0].frame, sample.searches[0].frame) == (1, 4)
    np.testing.assert_array_equal(sample.searches[0].box, clip.tracks[0].boxes[4])
    frame = read_image(clip.frames[4])
    (left, top), (right, bottom) = sample.searches[0].origin, sample.searches[0].window
    stored = decode(sample.searches[0].jpeg).astype(int)
    assert np.abs(stored - frame[top:bottom, left:right]).mean() < 2.0
    np.testing.assert_allclose(sample.searches[0].mean, frame.reshape(-1, 3).mean(axis=0), atol=0.01)


def test_small_trees_get_four_pairs_an_object(tiny_clips, tmp_path):
    assert make_plan(tiny_clips, tmp_path, BuildOptions()).pairs == 4 * (1 + 4 + 6 + 8)


def test_a_build_killed_several_times_ends_in_the_same_bytes(write_tree, tmp_path):
    """SIGKILL a real build several times; what is left over is never taken for a shard."""
    shards = tmp_path / "shards"
    tree = f"--root=generic={write_tree(tmp_path / 'raw', sequences=3, frames=12, width=320)}"

    def build_command(out: Path) -> list[str]:
        options = ["--datasets=generic", "--pairs=200", "--shard-pairs=10", "--workers=2", f"--shards={out}"]
        return [sys.executable, "-m", "lorat.prep.cli", "build", tree, *options]

    kills = 0
    for after in (1, 4, 9):
        process = subprocess.Popen(build_command(shards), start_new_session=True, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if len(list((shards / "generic-train").glob("*.receipt.json"))) >= after:
                kills += 1
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        process.wait()
        for receipt in (shards / "generic-train").glob("*.receipt.json"):
            shard = receipt.with_name(receipt.name.replace(".receipt.json", ".tar.zst"))
            ShardReader(shard).read(0)
    assert kills >= 2
    subprocess.run(build_command(shards), check=True, capture_output=True)
    subprocess.run(build_command(tmp_path / "whole"), check=True, capture_output=True)
    built = shard_bytes(shards / "generic-train")
    assert len(built) == 20
    assert built == shard_bytes(tmp_path / "whole/generic-train")


def test_gap_and_order_of_frames_stand_in_the_configuration_where_they_are_not_the_published_ones(tiny_clips, tmp_path):
    plain = build(tiny_clips, tmp_path / "plain", OPTIONS).manifest
    assert not {"max_gap", "causal"} & plain.config.keys()
    assert build(tiny_clips, tmp_path / "same", replace(OPTIONS, max_gap=100)).manifest.config == plain.config
    near = build(tiny_clips, tmp_path / "near", replace(OPTIONS, max_gap=2, causal=True)).manifest
    assert {k: near.config[k] for k in near.config.keys() - plain.config.keys()} == {"max_gap": 2, "causal": True}
    assert near.fingerprint() != plain.fingerprint()
    reader = ShardReader(near.folder / near.shards[0].shard)
    samples = [reader.read(row) for row in range(len(reader))]
    assert all(0 <= sample.searches[0].frame - sample.templates[0].frame <= 2 for sample in samples)
    with pytest.raises(UserError, match="another causal"):
        build(tiny_clips, tmp_path / "near", replace(OPTIONS, max_gap=2))
