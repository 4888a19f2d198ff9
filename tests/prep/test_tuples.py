"""Tuples are drawn as each tracker's sampler says, and stored, checked, resumed and shown as pairs are."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from lorat.prep.browse.samples import frames_of
from lorat.prep.build.plan import BuildOptions, make_plan
from lorat.prep.build.run import build
from lorat.prep.cli import main
from lorat.prep.pairs.draw import draw_sample
from lorat.prep.trees.base import clip as clip_module
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.manifest import MANIFEST, load_manifest
from lorat.shards.pixels.jpeg import decode
from lorat.shards.reader import ShardReader
from lorat.shards.sample import SHAPES, Sample, image_roles, member_names
from lorat.shards.verify.shard import audit_shard
from lorat.shards.verify.verify import plan_audit
from tests.prep.test_pairs import clip

OPTIONS = BuildOptions(pairs=32, shard_pairs=8, workers=1)
TUPLES = ("spmtrack", "loratv2")


def drawn(clips: list[Clip], sampler: str, count: int, **rule: object) -> list[tuple[tuple[int, ...], ...]]:
    samples = (draw_sample(clips, "toy-train", 42, i, sampler, **rule) for i in range(count))
    return [(sample.templates, sample.searches) for sample in samples]


def samples_of(folder: Path) -> list[Sample]:
    manifest = load_manifest(folder)
    readers = [ShardReader(folder / receipt.shard) for receipt in manifest.shards]
    return [reader.read(row) for reader in readers for row in range(len(reader))]


@pytest.fixture(scope="module")
def tuples(tiny_clips, tmp_path_factory) -> dict[str, Path]:
    """A shard set of each kind of tuple."""
    found = {}
    for sampler in TUPLES:
        folder = tmp_path_factory.mktemp(sampler)
        build(tiny_clips, folder, replace(OPTIONS, sampler=sampler))
        found[sampler] = folder / "toy-train"
    return found


@pytest.mark.parametrize("sampler", TUPLES)
def test_a_tuple_depends_on_its_number_alone_and_shows_visible_frames(sampler):
    rng = np.random.default_rng(0)
    clips = [clip("a", (rng.random(900) < 0.3).tolist()), clip("b", [True] * 3), clip("still", [True])]
    forwards = [draw_sample(clips, "toy-train", 7, i, sampler) for i in range(60)]
    assert forwards == [draw_sample(clips, "toy-train", 7, i, sampler) for i in reversed(range(60))][::-1]
    assert forwards != [draw_sample(clips, "toy-train", 8, i, sampler) for i in range(60)]
    for sample in forwards:
        assert (len(sample.templates), len(sample.searches)) == SHAPES[sampler]
        assert clips[sample.clip].tracks[0].visible[[*sample.templates, *sample.searches]].all()
        assert len({*sample.templates, *sample.searches}) == 1 or sample.clip < 2


def test_spmtracks_tuple_runs_one_way_in_time_and_stays_in_reach():
    found = drawn([clip("a", [True] * 3000)], "spmtrack", 1500)
    spans = Counter()
    for templates, searches in found:
        frames = np.array([*templates, *searches])
        steps = np.diff(frames)
        assert (steps >= 0).all() or (steps <= 0).all()
        spans["forwards" if frames[-1] > frames[0] else "backwards"] += 1
        # Two of five lie within 400 of the other three, and those within 200 of one of them.
        assert np.ptp(frames) <= 800
        splits = [np.ptp(three) <= 400 for three in (frames[:3], frames[2:])]
        assert any(splits)
    assert 600 < spans["forwards"] < 900
    assert len({templates for templates, _ in found}) > 1400


def test_spmtracks_gap_grows_where_no_side_has_frames_and_ends_in_a_draw_from_all():
    # A cluster fills the reach of its own frames; the others are out of it until the gap has grown.
    near = drawn([clip("a", [True] * 4 + [False] * 3 + [True] * 2)], "spmtrack", 300, max_gap=4)
    assert any(8 in (*templates, *searches) for templates, searches in near)
    lonely = [True, *[False] * 900, True, *[False] * 900, True]
    frames = Counter(frame for pair in drawn([clip("a", lonely)], "spmtrack", 300) for part in pair for frame in part)
    assert set(frames) == {0, 901, 1802} and min(frames.values()) > 400


def test_loratv2s_reference_and_search_are_the_pair_of_that_number_and_its_template_is_any_other_frame():
    clips = [clip("a", [True] * 1000), clip("still", [True])]
    pairs, found = drawn(clips, "pair", 800), drawn(clips, "loratv2", 800)
    assert [((z,), (x,)) for _, (z, x) in found] == pairs
    apart = [abs(a - z) for (a,), (z, x) in found if z != x]
    assert min(apart) > 0 and np.mean(apart) > 250  # of two uniform frames of a thousand: a third


@pytest.mark.parametrize("sampler", TUPLES)
def test_no_search_frame_of_a_causal_tuple_is_before_a_template(sampler):
    clips = [clip("a", [True] * 50), clip("b", [True] * 2)]
    for templates, searches in drawn(clips, sampler, 300, causal=True):
        assert max(templates) <= min(searches) and list(searches) == sorted(searches)


@pytest.mark.parametrize("sampler", TUPLES)
def test_a_stored_tuple_holds_the_frames_that_were_drawn_under_the_names_of_its_shape(tuples, tiny_clips, sampler):
    manifest, samples = load_manifest(tuples[sampler]), samples_of(tuples[sampler])
    assert (manifest.sampler, manifest.config["sampler"], len(samples)) == (sampler, sampler, 32)
    reader = ShardReader(tuples[sampler] / manifest.shards[0].shard)
    names = [name for name, _ in reader.members(3)]
    assert names == [f"toy-train-000000003.{name}" for name in member_names(SHAPES[sampler])]
    for number, sample in enumerate(samples):
        wanted = draw_sample(tiny_clips, "toy-train", 42, number, sampler)
        first = tiny_clips[wanted.clip].first
        assert [image.frame - first for image in sample.images] == [*wanted.templates, *wanted.searches]
        for image in sample.images:
            assert decode(image.jpeg).shape[:2] == image.size[::-1]


def test_a_pairs_windows_are_those_of_the_tuple_that_it_is_part_of(tuples, tiny_clips, tmp_path):
    build(tiny_clips, tmp_path, OPTIONS)
    for pair, whole in zip(samples_of(tmp_path / "toy-train"), samples_of(tuples["loratv2"]), strict=True):
        assert pair.searches[0] == whole.searches[1]
        assert pair.templates[0].frame == whole.searches[0].frame


@pytest.mark.parametrize("sampler", TUPLES)
def test_tuples_give_the_same_bytes_however_they_are_built(tuples, tiny_clips, tmp_path, sampler):
    options = replace(OPTIONS, sampler=sampler)
    build(tiny_clips, tmp_path, replace(options, pairs=16))
    report = build(tiny_clips, tmp_path, replace(options, workers=2))
    assert report.built == 2
    for receipt in load_manifest(tuples[sampler]).shards:
        there = (tuples[sampler] / receipt.shard).read_bytes()
        assert (tmp_path / "toy-train" / receipt.shard).read_bytes() == there
        assert hashlib.sha256(there).hexdigest() == receipt.sha256


def test_pairs_are_not_gone_on_with_as_tuples(tiny_clips, tmp_path):
    build(tiny_clips, tmp_path, OPTIONS)
    with pytest.raises(UserError, match=r"another sampler \(None instead of spmtrack\)"):
        build(tiny_clips, tmp_path, replace(OPTIONS, sampler="spmtrack"))


def test_each_frame_of_a_tuple_is_decoded_once(tiny_clips, tmp_path, monkeypatch):
    read, plain = Counter(), clip_module.FrameFiles.read
    monkeypatch.setattr(
        clip_module.FrameFiles, "read", lambda self, index: (read.update([index]), plain(self, index))[1]
    )
    build(tiny_clips[:1], tmp_path, replace(OPTIONS, pairs=1, sampler="spmtrack"))  # a still image
    assert read == {0: 1}
    (sample,) = samples_of(tmp_path / "toy-train")
    assert len({image.jpeg for image in sample.templates}) == len({image.jpeg for image in sample.searches}) == 1


def test_the_published_gaps_are_named_nowhere_and_others_are(tiny_clips, tmp_path):
    plans = [make_plan(tiny_clips, tmp_path, replace(OPTIONS, sampler="spmtrack", max_gap=gap)) for gap in (200, 100)]
    assert [plan.config.get("max_gap") for plan in plans] == [None, 100]


def test_an_audit_finds_whole_tuples_whole_and_names_what_is_no_tuple_of_its_set(tuples, tmp_path):
    audit, jobs = plan_audit(tuples["spmtrack"], deep=True)
    assert not audit.faults and not [fault for job in jobs for fault in audit_shard(job).faults]
    other = replace(jobs[0], shape=SHAPES["loratv2"])
    faults = audit_shard(other).faults
    assert len(faults) == 8 and "template2.jpg" in faults[0].what and "expected" in faults[0].what


def test_a_sampler_of_a_newer_release_is_refused(tuples, tmp_path):
    text = (tuples["loratv2"] / MANIFEST).read_text().replace('"loratv2"', '"loratv9"')
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ShardCorrupt, match="sampler 'loratv9', this release reads pair, spmtrack, loratv2"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("sampler", TUPLES)
def test_tuples_are_counted_and_drawn(tuples, sampler, tmp_path):
    place, picture = str(tuples[sampler]), tmp_path / "sheet.png"
    result = CliRunner().invoke(main, ["stats", place])
    assert result.exit_code == 0 and f"not pairs but tuples for {sampler}" in result.output, result.output
    result = CliRunner().invoke(main, ["inspect", place, "--key", "toy-train-000000005", "--out", str(picture)])
    assert result.exit_code == 0, result.output
    assert all(role in result.output for role in image_roles(SHAPES[sampler]))
    result = CliRunner().invoke(main, ["inspect", place, "--out", str(picture), "--number", "5"])
    assert result.exit_code == 0 and cv2.imread(str(picture)) is not None


def test_frames_are_told_in_words(tuples):
    for sample in samples_of(tuples["spmtrack"]):
        frames = [image.frame for image in sample.images]
        text = frames_of(sample)
        if len(set(frames)) == 1:
            assert text == f"all frame {frames[0]}"
        else:
            assert text.startswith(f"frames {frames[0]}, {frames[1]}, {frames[2]} and {frames[3]}, {frames[4]} (")
