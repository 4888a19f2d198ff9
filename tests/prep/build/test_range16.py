"""Frames of 16 bits a pixel are stretched where that is asked for, and a build without them stays what it was."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from lorat.prep.annotations.index import indexed_clips
from lorat.prep.build.plan import BuildOptions, make_plan
from lorat.prep.cli import main
from lorat.prep.pairs.crop import CropOptions, cut_sample
from lorat.prep.pairs.draw import SampleDraw
from lorat.prep.trees.registry import DATASETS
from lorat.shards.manifest import load_manifest
from lorat.shards.pixels.jpeg import Range16, decode

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8).repeat(5, axis=0).repeat(5, axis=1)


@pytest.fixture
def tree(tmp_path):
    for name, offset in (("a", 7000), ("b", 9000)):
        folder = tmp_path / "mine" / "train" / name
        folder.mkdir(parents=True)
        for number in range(1, 5):
            cv2.imwrite(str(folder / f"{number}.png"), offset + 4 * IMAGE.astype(np.uint16))
        (folder / "groundtruth.txt").write_text("20,20,40,20\n" * 4)
    return tmp_path


def build(tree, *options, shards="shards"):
    command = ["build", f"--root=generic={tree / 'mine'}", f"--shards={tree / shards}", "--datasets=generic"]
    return CliRunner().invoke(main, [*command, "--workers=1", "--pairs=8", *options])


def test_a_range_is_part_of_a_build_that_uses_it_and_of_no_other(tree):
    result = build(tree)
    assert result.exit_code == 0
    assert "a/1.png: 16 bits a pixel; only the upper 8 are read (27 … 31 of 255)" in result.stderr
    plain = load_manifest(tree / "shards" / "generic-train")
    assert "range16" not in plain.config
    refused = build(tree, "--range16=7000,8020")
    assert refused.exit_code == 2 and "another range16 (None instead of [7000, 8020])" in refused.stderr
    result = build(tree, "--range16=auto", shards="other")
    assert result.exit_code == 0 and "bits" not in result.stderr and "one colour" not in result.stderr
    assert load_manifest(tree / "other" / "generic-train").config == {**plain.config, "range16": [0, 0]}
    assert build(tree, "--range16=auto", shards="other").exit_code == 0  # goes on


def test_what_is_stored_is_stretched_by_one_range_or_by_each_sequences_own(tree):
    clips = indexed_clips(DATASETS["generic"], "train", tree / "mine")

    def stored(number: int, text: str | None) -> np.ndarray:
        options = CropOptions(quality=100, range16=text and Range16.parse(text))
        drawn = SampleDraw(number, 0, (1,), (2,))
        return decode(cut_sample(clips[number], drawn, "k", options).searches[0].jpeg).astype(int)

    for number, text in ((0, "7000,8020"), (0, "auto"), (1, "9000,10020"), (1, "auto")):
        assert np.abs(stored(number, text) - IMAGE[..., None]).mean() < 4
    assert stored(1, "7000,8020").min() > 240  # cut at the range
    assert stored(0, None).std() < 2
    options = BuildOptions(crops=CropOptions(range16=Range16(7000, 8020)), pairs=4)
    plans = [make_plan(clips, tree, each) for each in (options, replace(options, crops=CropOptions()))]
    assert plans[0].config["range16"] == [7000, 8020] and plans[0].fingerprint() != plans[1].fingerprint()
