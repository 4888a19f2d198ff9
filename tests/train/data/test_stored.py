"""Weights say how large their shards hold frames, and a training whose crops want more of them says how often."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open

from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.prep.pairs.crop import CropOptions
from lorat.prep.trees.registry import DATASETS
from lorat.shards.manifest import load_manifest
from lorat.shards.pixels.geometry import crop_transform
from lorat.shards.pixels.jpeg import encode
from lorat.shards.pixels.resample import SERVED
from lorat.train.data.places import CropSpec
from lorat.train.data.stored import about_shards, enlarged, wanted_serve
from tests.train.batches import damage
from tests.train.conftest import command_line, train

LARGE, SMALL = CropSpec(196, 378, 14, 27, 2.0, 5.0), CropSpec(112, 224, 8, 16, 2.0, 4.0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Objects of so many pixels a side, on frames that are large enough, as either build holds them."""
    folder = tmp_path_factory.mktemp("large")
    for side in (40, 92, 300):
        for number in range(2):
            place = folder / f"{side}" / "train" / f"s{number}"
            place.mkdir(parents=True)
            image = encode(np.random.default_rng(number).integers(0, 256, (700, 900, 3), dtype=np.uint8), 60)
            for frame in range(3):
                (place / f"{frame}.jpg").write_bytes(image)
            (place / "groundtruth.txt").write_text(f"300,200,{side},{side}\n" * 3)
        source = DATASETS["generic"]
        for serve in SERVED:
            options = BuildOptions(crops=CropOptions(serve=serve), pairs=12, shard_pairs=12, workers=1)
            build(source.read(source, "train", folder / f"{side}"), folder / f"{side}-{serve}", options)
    return folder


def manifest(shards, side: int, serve: int = 224):
    return load_manifest(shards / f"{side}-{serve}" / "generic-train")


@pytest.mark.parametrize("side", [40, 92, 300])
def test_the_share_is_that_of_draws_with_more_pixels_than_are_stored_of_the_frame(side, shards, source):
    """A square object is scaled by 75.6 / side · exp(0.25 n) an axis, the frame is stored by 96 / side."""
    share = enlarged(manifest(shards, side), replace(source, spec=LARGE))
    if side < 96:
        assert share == 0.0  # the frame has no more
        return
    scale = crop_transform((0, 0, side, side), 5.0, (378, 378)).scale[0]
    normal = np.random.default_rng(0).standard_normal((100_000, 2))
    expected = (scale * np.exp(0.25 * normal) > 96 / side).any(axis=1).mean()
    assert 0.2 < expected < 0.5 and share == pytest.approx(expected, abs=0.12)  # of 96 draws


def test_shards_that_serve_the_variant_are_not_even_read(shards, source, monkeypatch):
    monkeypatch.setattr("lorat.train.data.stored.open_shard", None)
    assert enlarged(manifest(shards, 300), replace(source, spec=SMALL)) is None
    assert enlarged(manifest(shards, 300, 378), replace(source, spec=LARGE)) is None
    assert enlarged(replace(manifest(shards, 300), config={}), replace(source, spec=LARGE)) is None


def test_rows_that_are_damaged_end_nothing(shards, source, tmp_path):
    folder = shutil.copytree(shards / "300-224" / "generic-train", tmp_path / "generic-train")
    damage(load_manifest(folder), 0, [3])
    assert enlarged(load_manifest(folder), replace(source, spec=LARGE)) is not None
    for file in folder.glob("*.idx"):
        file.write_bytes(b"")
    assert enlarged(load_manifest(folder), replace(source, spec=LARGE)) is None


def test_weights_name_what_most_of_their_pairs_were_stored_by(shards, source):
    both = replace(source, manifests=(manifest(shards, 40), manifest(shards, 40, 378)), weights=(1, 2))
    assert json.loads(about_shards(both)["stored"]) == [14.0, 128, 1536, 5.0]
    assert json.loads(about_shards(replace(both, weights=(3, 2)))["stored"]) == [12.0, 96, 1024, 4.0]


def test_a_training_warns_at_its_start_and_its_weights_name_the_shards(shards, tiny_variant, tiny_recipe, tmp_path):
    large = tiny_variant.model_copy(update={"template_size": 128, "search_size": 256})
    data = tiny_recipe.data.model_copy(update={"datasets": {"generic-train": 1}, "validation": ""})
    plan = tiny_recipe.train.model_copy(update={"epochs": 1, "warmup_epochs": 0})
    recipe = tiny_recipe.model_copy(update={"data": data, "train": plan})
    arguments = command_line(tmp_path, large, recipe, shards / "300-224", "--no-eval")
    said = " ".join(train(*arguments, f"--run-dir={tmp_path / 'run'}").stderr.split())
    (share,) = re.findall(
        r"generic-train: built for smaller crops: of 256 pixels, about (\d+) % of draws enlarge what is stored; "
        r"lorat-prep build --serve 378",
        said,
    )
    assert 0 < int(share) < 20
    with safe_open(tmp_path / "run/checkpoints/epoch_0001/model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["stored"]) == [12.0, 96, 1024, 4.0]


@pytest.mark.parametrize(("side", "share"), [(40, 0.0), (300, 1.0)])
def test_templates_that_want_more_than_search_crops_do_are_told_of(shards, source, side, share):
    large = CropSpec(224, 224, 16, 16, 2.0, 4.0)  # LoRATv2's: the object of a template has 112 pixels
    assert wanted_serve(large) == 378 and wanted_serve(SMALL) == 224 and wanted_serve(LARGE) == 378
    assert enlarged(manifest(shards, side), replace(source, spec=large)) == share
    assert enlarged(manifest(shards, side, 378), replace(source, spec=large)) is None
