"""``lorat-prep build`` on the command line: what it says first, budgets, parts, damaged trees."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lorat.prep.cli import main
from lorat.shards.manifest import load_manifest
from lorat.shards.pixels.jpeg import encode, read_image

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def here(tmp_path: Path, write_tree) -> Path:
    """A tree of four sequences with five frames each."""
    return write_tree(tmp_path / "mine", sequences=4, frames=5).parent


def run(here: Path, *options: str, shards: str = "shards"):
    tree = f"--root=generic={here / 'mine'}"
    command = ["build", tree, f"--shards={here / shards}", "--datasets=generic", "--workers=1"]
    return CliRunner().invoke(main, [*command, *options])


def done(result) -> str:
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def refused(result) -> str:
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert "Traceback" not in result.output
    return lines[-1]


def manifest(here: Path, shards: str = "shards"):
    return load_manifest(here / shards / "generic-train")


def damage(image: Path) -> bytes:
    whole = image.read_bytes()
    image.write_bytes(b"not a picture" + whole[300:])
    return whole


def test_it_says_what_to_expect_before_it_builds(here):
    text = done(run(here, "--shard-pairs=10"))
    assert text.index("To build in") < text.index("Shards in")
    assert "generic-train 4 80 0 80" in text  # 4 pairs for each of 20 visible objects
    assert "GB are free" in text and "build.log" in text
    again = done(run(here, "--shard-pairs=10", "--pairs=100"))
    assert "generic-train 4 100 80 20" in again


def test_a_disk_without_room_is_refused_unless_told_to_go_on(here, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 10_000))
    line = refused(run(here))
    assert "--force" in line and str(here / "shards") in line
    assert not (here / "shards").exists()
    done(run(here, "--force"))


def test_a_budget_is_kept_in_whole_shards_and_can_be_raised(here):
    done(run(here, "--budget=200KB", "--shard-pairs=4"))
    built = manifest(here)
    size = sum(receipt.bytes for receipt in built.shards)
    assert 100_000 < size < 220_000
    assert all(receipt.drawn == 4 for receipt in built.shards)
    done(run(here, "--budget=300KB", "--shard-pairs=4"))
    assert manifest(here).rows > built.rows
    assert manifest(here).shards[: len(built.shards)] == built.shards
    done(run(here, "--budget=1TB", "--shard-pairs=4", shards="most"))
    assert manifest(here, "most").rows == 80


def test_parts_and_merge_are_the_build(here):
    for part in ("1/3", "2/3", "3/3"):
        if part == "3/3":
            line = refused(run(here, "--merge", "--shard-pairs=8"))
            assert "--part 3/3" in line
        done(run(here, f"--part={part}", "--shard-pairs=8"))
    assert not (here / "shards/generic-train/manifest.json").exists()
    assert "80" in done(run(here, "--merge", "--shard-pairs=8"))
    done(run(here, "--shard-pairs=8", shards="whole"))
    assert manifest(here).to_json() == manifest(here, "whole").to_json()


def test_a_part_keeps_its_losses_whatever_the_other_parts_lost(here):
    damage(here / "mine/train/seq-2/0.jpg")
    done(run(here, "--shard-pairs=8", "--max-bad=80", shards="counted"))
    lost = [len(receipt.bad) for receipt in manifest(here, "counted").shards]
    most = max(sum(lost[0::2]), sum(lost[1::2]))
    assert most < sum(lost)
    options = ("--shard-pairs=8", f"--max-bad={most}")
    for part in ("1/2", "2/2"):
        done(run(here, *options, f"--part={part}"))
    assert "generic-train 4 80 80 0" in done(run(here, *options, "--part=1/2"))
    assert f"--max-bad allows {most}" in refused(run(here, *options, "--merge"))


def test_there_are_as_many_workers_as_cores_that_may_be_used(here, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    options = [f"--root=generic={here / 'mine'}", f"--shards={here / 's'}", "--datasets=generic"]
    assert "3 at once" in done(CliRunner().invoke(main, ["build", *options]))


@pytest.mark.parametrize(
    "options, said",
    [
        (("--pairs=9", "--budget=1GB"), "--budget"),
        (("--budget=much",), "200GB"),
        (("--part=1/2", "--merge"), "--merge"),
        (("--part=3/2",), "3/2"),
        (("--ray-address=auto",), "--engine ray"),
        (("--engine=ray",), "--workers"),  # which `run` gives
    ],
)
def test_options_that_contradict_each_other_are_refused(here, options, said):
    assert said in refused(run(here, *options))


def test_a_damaged_first_image_costs_pairs_and_not_the_build(here):
    image = here / "mine/train/seq-2/0.jpg"
    damage(image)
    line = refused(run(here))
    assert "seq-2/0.jpg" in line and "--max-bad allows 0" in line
    text = done(run(here, "--max-bad=40"))
    assert "frame does not decode" in text
    assert 40 <= manifest(here).rows < 80
    log = (here / "shards/generic-train/build.log").read_text().splitlines()
    lost = [e for e in map(json.loads, log) if e["event"] == "skipped" and e["lost"]]
    assert lost and all("seq-2/0.jpg" in e["detail"] for e in lost)


def test_a_sequence_without_a_readable_image_counts_as_lost(here):
    for image in (here / "mine/train/seq-1").glob("*.jpg"):
        damage(image)
    line = refused(run(here))
    assert "seq-1" in line and "--max-bad allows 0" in line
    done(run(here, "--max-bad=1"))
    assert manifest(here).rows == 60
    (lost,) = manifest(here).warned
    assert lost.startswith("lost a sequence: ") and "seq-1" in lost
    assert json.dumps(lost) in (here / "shards/generic-train/build.log").read_text()


def test_what_the_check_found_is_left_out(here):
    damage(here / "mine/train/seq-2/0.jpg")
    report = here / "report.json"
    check = ["check", f"--root=generic={here / 'mine'}", "--datasets=generic", f"--report={report}"]
    CliRunner().invoke(main, check)
    done(run(here, f"--exclude={report}"))
    built = manifest(here)
    assert built.rows == 76 and "exclude" in built.config
    assert "another exclude" in refused(run(here))


def test_every_build_and_every_part_repeats_what_was_warned_of_when_the_tree_was_read(here):
    (here / "mine/train/stray").mkdir()
    damage(here / "mine/train/seq-1/0.jpg")
    told = ["train/stray: no groundtruth.txt", "seq-1/0.jpg: no readable"]

    def warned(result) -> list[str]:
        assert result.exit_code == 0, result.output
        lines = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
        return [line.removeprefix("warning: ") for line in lines if any(text in line for text in told)]

    few = ("--pairs=8", "--shard-pairs=4", "--max-bad=8")
    first = warned(run(here, *few))
    assert len(first) == 2 and all(text in line for text, line in zip(told, first, strict=True))
    assert list(manifest(here).warned) == first
    for part in ("--part=1/2", "--part=2/2", "--merge"):
        assert warned(run(here, *few, part, shards="parts")) == first
    assert list(manifest(here, "parts").warned) == first
    assert manifest(here, "parts").fingerprint() == manifest(here).fingerprint()
    logs = ("shards/generic-train/build.log", "parts/generic-train/build.log")  # the latter of --merge
    for log in (*logs, *(f"parts/generic-train/build-{n}-of-2.log" for n in (1, 2))):
        events = map(json.loads, (here / log).read_text().splitlines())
        assert [event["message"] for event in events if event["event"] == "warned"] == first


def test_what_is_lost_of_first_images_is_told_by_every_part_and_stands_in_log_and_manifest(here):
    first = here / "mine/train/seq-1/0.jpg"
    first.write_bytes(encode(np.full_like(read_image(first), 77)))
    told = f"{first}: one colour (77, 77, 77) all over (1 of 4 first images looked at)"
    for part in ("--part=1/2", "--part=2/2", "--merge"):
        result = run(here, "--pairs=8", "--shard-pairs=4", part)
        assert done(result) and f"warning: generic-train: {told}" in result.stderr
    assert manifest(here).warned == (told,)
    assert json.dumps(told) in (here / "shards/generic-train/build-2-of-2.log").read_text()


def test_a_tree_without_warnings_has_the_manifest_that_it_had(here):
    done(run(here, "--pairs=8"))
    assert "warned" not in json.loads((here / "shards/generic-train/manifest.json").read_text())


def test_boxes_in_another_notation_are_built_only_when_told_so(here):
    for truth in here.glob("mine/train/*/groundtruth.txt"):
        truth.write_text("0.4,0.5,0.2,0.3\n" * 5)
    for _ in range(2):  # from the tree, and from the index
        line = refused(run(here))
        assert "20 of 20 visible boxes have both sides below two pixels" in line
        assert "normalised?" in line and "--odd-boxes" in line
    done(run(here, "--odd-boxes", "--pairs=8"))
    assert "normalised?" in (here / "shards" / "generic-train" / "build.log").read_text()
    assert "normalised?" in manifest(here).warned[-1]


def test_a_sequence_whose_annotations_are_damaged_stops_a_build_or_is_left_out(here):
    (here / "mine" / "train" / "seq-1" / "groundtruth.txt").write_text("20,20,40,20\n" * 10)
    for _ in range(2):
        line = refused(run(here))
        assert "seq-1" in line and "5 images but 10 boxes" in line and "--max-bad" in line
    result = run(here, "--max-bad=1", "--shard-pairs=10")
    assert "generic-train 3 60 0 60" in done(result)
    assert manifest(here).warned[0].startswith("lost a sequence: ")
