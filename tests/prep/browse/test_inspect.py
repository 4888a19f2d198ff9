"""Samples are found by their key, and their pictures show the box where it is."""

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from lorat.prep.browse.samples import draw_sheet, find_sample, pick_samples
from lorat.prep.browse.sets import load_sets
from lorat.prep.cli import main
from lorat.shards.base.errors import UserError
from lorat.shards.manifest import Manifest, Receipt, shard_name
from lorat.shards.pixels.jpeg import encode
from lorat.shards.sample import Sample, StoredImage, sample_key
from lorat.shards.writer import write_shard

SKIPPED = (3, 4, 9)


def stored(number: int, size: tuple[int, int]) -> StoredImage:
    """A red object on blue, in a window that begins at (40, 30) and is stored at half its size."""
    image = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    image[..., 2] = 200
    box = (40 + size[0] * 0.5, 30 + size[1] * 0.5, 40 + size[0] * 1.5, 30 + size[1] * 1.5)
    image[size[1] // 4 : size[1] * 3 // 4, size[0] // 4 : size[0] * 3 // 4] = (200, 0, 0)
    window = (40 + 2 * size[0], 30 + 2 * size[1])
    return StoredImage(number, box, (640, 480), (10.5, 20.0, 30.0), (40, 30), window, size, encode(image, 95))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs 0 … 11 in two shards, of which three were skipped."""
    root = tmp_path_factory.mktemp("shards")
    receipts = []
    for shard in range(2):
        samples = []
        for n in (n for n in range(6 * shard, 6 * shard + 6) if n not in SKIPPED):
            key, images = sample_key("toy", "train", n), (stored(n, (60, 60)), stored(n + 5, (160, 120)))
            samples.append(Sample(key, "toy", "train", f"a$b$-{n}", n % 2, images[:1], images[1:]))
        name = shard_name("toy", "train", shard)
        summary = asdict(write_shard(root / "toy-train" / name, samples))
        receipts.append(Receipt(name, 6 * shard, 6, **summary, config="c", skipped={"too small": 6 - len(samples)}))
    Manifest("toy", "train", {}, tuple(receipts), root / "toy-train").save()
    return root


def test_every_stored_key_is_found_in_its_shard_and_row(shards):
    manifests = load_sets(shards)
    rows = {0: 0, 1: 1, 2: 2, 5: 3, 6: 0, 7: 1, 8: 2, 10: 3, 11: 4}
    for pair, row in rows.items():
        found = find_sample(manifests, sample_key("toy", "train", pair))
        assert found.sample.searches[0].frame == pair + 5
        assert (found.shard.name, found.row) == (shard_name("toy", "train", pair // 6), row)
        data = found.shard.read_bytes()[int(found.entry["offset"]) :][: int(found.entry["length"])]
        assert data[:4] == b"\x28\xb5\x2f\xfd", "a zstd frame begins there"


@pytest.mark.parametrize("pair", SKIPPED)
def test_a_skipped_pair_is_said_to_be_one(shards, pair):
    with pytest.raises(UserError, match=r"drawn but not stored; .* skipped: too small"):
        find_sample(load_sets(shards), sample_key("toy", "train", pair))


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("toy-train-000000012", "has pairs 0 to 11"),
        ("toy-val-000000001", "no such sample; sets: toy-train"),
        ("nonsense", "write it like toy-train-000000000"),
    ],
)
def test_a_key_that_is_nowhere_names_what_is_there(shards, key, says):
    with pytest.raises(UserError, match=says):
        find_sample(load_sets(shards), key)


def test_picked_samples_are_different_and_depend_on_the_seed(shards):
    manifests = load_sets(shards)
    first = [one.sample.key for one in pick_samples(manifests, 5, seed=0)]
    assert len(set(first)) == 5
    assert first == [one.sample.key for one in pick_samples(manifests, 5, seed=0)]
    assert first != [one.sample.key for one in pick_samples(manifests, 5, seed=1)]
    assert len(pick_samples(manifests, 100, seed=0)) == 9


def test_the_box_is_drawn_around_the_object(shards, tmp_path):
    found = find_sample(load_sets(shards), sample_key("toy", "train", 0))
    for zoom in (1, 4):
        draw_sheet([found], tmp_path / "one.png", zoom)
        picture = cv2.imread(str(tmp_path / "one.png"))[..., ::-1].astype(int)
        red = (picture[..., 0] > 150) & (picture[..., 1] < 60) & (picture[..., 2] < 60)
        line = (picture[..., 1] > 180) & (picture[..., 0] < 130) & (picture[..., 2] < 130)
        # Templates are drawn 154 x 154, searches 260 x 195; the object fills the middle half of each.
        for left, width, height in ((12, 154 * zoom, 154 * zoom), (23 + 154 * zoom, 260 * zoom, 195 * zoom)):
            here = slice(left, left + width)
            edges = [(at.min(), at.max()) for at in np.nonzero(line[:, here])]
            assert (
                np.abs(np.subtract(edges, [(46 + height / 4, 46 + height * 0.75), (width / 4, width * 0.75)])).max()
                <= 3
            )
            for (first, last), inner in zip(edges, np.nonzero(red[:, here]), strict=True):
                # The dark outline of the line covers the object's edge; enlarging softens it.
                assert 0 <= inner.min() - first <= 6 * zoom
                assert 0 <= last - inner.max() <= 6 * zoom


@pytest.mark.parametrize("number", [1, 2, 4, 9])
def test_a_sheet_shows_any_number_of_samples(shards, tmp_path, number):
    draw_sheet(pick_samples(load_sets(shards), number, 0), tmp_path / "sheet.png")
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture.shape[1] == 460 * min(3, number)
    green = (picture[..., 1] > 180) & (picture[..., 0] < 130) & (picture[..., 2] < 130)
    assert cv2.connectedComponents(green.astype(np.uint8))[0] - 1 >= 2 * number


def test_the_command_prints_all_that_a_sample_says(shards, tmp_path):
    path = tmp_path / "x.png"
    arguments = ["inspect", str(shards), "--key", "toy-train-000000005", "--out", str(path)]
    result = CliRunner().invoke(main, arguments, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert path.is_file()
    for text in (
        "toy-train-000000005",
        "toy-train-00000.tar.zst",
        "row       3,",
        "a$b$-5, track 1",
        "frames 5 and 10 (+5)",
        "120, 90",  # left, top of the search box: 40 + 80, 30 + 60
        "280, 210",
        "10.5, 20, 30",
        "160 x 120",
        "0.500, 0.500",
    ):
        assert text in result.output, text
    table = [line for line in result.output.splitlines() if "template" in line or "size" in line]
    assert max(len(line) for line in table) <= 80


def test_the_command_writes_a_sheet_into_the_working_folder(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["inspect", str(shards), "--number", "2"])
    assert result.exit_code == 0, result.output
    assert "2 of 9 pairs" in result.output
    assert (tmp_path / "inspect.png").is_file()
