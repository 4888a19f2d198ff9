"""What a build says before it starts, and how a budget is divided."""

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat.prep.build.estimate import Cost, check_room, estimate, measure, pairs_within
from lorat.prep.build.folder import finished
from lorat.prep.build.plan import BuildOptions, BuildPart, make_plan
from lorat.prep.build.run import build, run_plan
from lorat.prep.build.shard import make_sample
from lorat.prep.pool import LocalEngine
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import parse_bytes

OPTIONS = BuildOptions(pairs=256, shard_pairs=32, workers=1)
Usage = namedtuple("Usage", "total used free")


def test_the_bytes_that_are_expected_are_about_those_that_are_built(tiny_clips, tmp_path):
    plan = make_plan(tiny_clips, tmp_path, OPTIONS)
    expected = estimate(plan, range(8), slots=2)
    assert not list(tmp_path.iterdir())  # nothing is written before the build
    assert (expected.pairs, expected.there, expected.to_build) == (256, 0, 256)
    assert expected.sampled == 32
    report = run_plan(plan, LocalEngine(1), estimate=expected)
    built = sum(p.stat().st_size for p in plan.folder.glob("*.tar.zst"))
    built += sum(p.stat().st_size for p in plan.folder.glob("*.idx"))
    assert expected.bytes == pytest.approx(built, rel=0.1)
    assert expected.lacking == expected.bytes
    assert report.manifest.rows == 256
    logged = (json.loads(line) for line in (plan.folder / "build.log").read_text().splitlines())
    (event,) = (e for e in logged if e["event"] == "estimate")
    assert event["bytes"] == expected.bytes


def test_only_what_is_missing_is_estimated(tiny_clips, tmp_path):
    build(tiny_clips, tmp_path, replace(OPTIONS, pairs=96))
    plan = make_plan(tiny_clips, tmp_path, OPTIONS)
    done = finished(plan, plan.mine())
    missing = [k for k in range(8) if k not in done]
    expected = estimate(plan, missing, slots=1)
    assert (expected.there, expected.to_build) == (96, 160)
    part = replace(plan, options=replace(plan.options, part=BuildPart(1, 2)))
    share = estimate(part, missing, slots=1)
    assert (share.to_build, share.lacking) == (64, expected.bytes)
    nothing = estimate(plan, [], slots=1)
    assert (nothing.to_build, nothing.bytes, nothing.sampled) == (0, 0, 0)


@pytest.mark.parametrize("slots, seconds", [(1, 140), (2, 76), (3, 64), (4, 44), (5, 32), (9, 32)])
def test_minutes_are_those_of_the_process_with_most_shards(tiny_clips, tmp_path, slots, seconds):
    """Shards of 32, 32, 32, 32 and 12 pairs, a second a pair."""
    plan = make_plan(tiny_clips, tmp_path, replace(OPTIONS, pairs=140))
    assert estimate(plan, range(5), slots, Cost(1, 10.0, 1.0)).seconds == seconds


def test_a_pair_is_timed_as_a_worker_cuts_it(tiny_clips, tmp_path, monkeypatch):
    threads = []

    def counted(*arguments):
        threads.append(cv2.getNumThreads())
        return make_sample(*arguments)

    monkeypatch.setattr("lorat.prep.build.estimate.make_sample", counted)
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        measure(make_plan(tiny_clips, tmp_path, OPTIONS), range(8))
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)
    assert set(threads) == {1}


def test_small_builds_are_not_cut_twice(tiny_clips, tmp_path):
    plan = make_plan(tiny_clips, tmp_path, replace(OPTIONS, pairs=20))
    assert measure(plan, [0]).sampled == 3


def test_the_sample_ends_in_time_unless_its_sizes_have_to_agree(tiny_clips, tmp_path):
    plan = make_plan(tiny_clips, tmp_path, OPTIONS)
    assert measure(plan, range(8), seconds=0.0).sampled == 4
    assert measure(plan, range(8), seconds=None).sampled == 32
    first, second = (measure(plan, range(8), seconds=None).bytes for _ in range(2))
    assert first == second


@pytest.mark.parametrize("needed, outcome", [(50, None), (95, "warns"), (110, "warns"), (130, "no")])
def test_room_is_refused_only_where_it_is_clearly_too_small(tmp_path, monkeypatch, needed, outcome):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 100 * 10**9))
    shards = tmp_path / "not" / "yet"
    if outcome == "no":
        with pytest.raises(UserError, match=r"100\.0 GB are free.*--force"):
            check_room(needed * 10**9, shards)
    else:
        assert (check_room(needed * 10**9, shards) is None) == (outcome is None)


@given(
    st.integers(10**3, 10**13),
    st.lists(st.tuples(st.integers(1, 500_000), st.integers(1, 10), st.floats(1e3, 1e6)), min_size=1),
)
def test_a_budget_is_kept_and_divided_by_default_pairs(budget, trees):
    wanted = [(default, default * times, cost) for default, times, cost in trees]
    pairs = pairs_within(budget, wanted)
    least = sum(cost for _, _, cost in wanted)  # one pair each, whatever the budget
    assert sum(n * w[2] for n, w in zip(pairs, wanted, strict=True)) <= budget + least
    scale = budget / sum(default * cost for default, _, cost in wanted)
    for n, (default, most, _) in zip(pairs, wanted, strict=True):
        assert n == min(most, max(1, int(default * scale)))


def test_sizes_are_read_with_their_units():
    texts = ("200GB", "1.5 tb", "500GiB", "64K", "1e9", "123", "12B", " .5MB ")
    sizes = [200 * 10**9, 1_500_000_000_000, 500 * 2**30, 64_000, 10**9, 123, 12, 500_000]
    assert [parse_bytes(text) for text in texts] == sizes


@pytest.mark.parametrize("text", ["", "GB", "-5GB", "0", "200 GB more", "5XB", "5iB", "nan"])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="200GB"):
        parse_bytes(text)
