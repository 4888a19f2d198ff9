"""Numbers of shards are those that can be worked out by hand."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lorat.configs.schema import DataConfig, RecipeConfig, TrainConfig
from lorat.prep.browse.sets import SetSizes, find_sets, load_sets
from lorat.prep.browse.stats import freshness, sample_stats, spread_rows
from lorat.prep.cli import main
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import write_json
from lorat.shards.manifest import Manifest, Receipt, receipt_path, shard_name
from lorat.shards.sample import Sample, StoredImage, sample_key
from lorat.shards.writer import write_shard


def stored(frame: int, side: float, shrink: int, jpeg: int) -> StoredImage:
    """A window of 400 x 200 frame pixels, stored shrunk, around an object of side x side."""
    box, size = (100.0, 50.0, 100.0 + side, 50.0 + side), (400 // shrink, 200 // shrink)
    return StoredImage(frame, box, (640, 360), (1.0, 2.0, 3.0), (0, 0), (400, 200), size, bytes(jpeg))


def write_set(shards: Path, split: str, gaps: list[list[int]], drawn: int) -> Manifest:
    """Write shards whose sample n has an object of 10·(n + 1) pixels and the gap that is given."""
    folder = shards / f"toy-{split}"
    folder.mkdir(parents=True)
    receipts, number = [], 0
    for shard, row_gaps in enumerate(gaps):
        samples = []
        for row, gap in enumerate(row_gaps):
            side = 10.0 * (number + 1)
            template, search = stored(50, side, 1, 1000), stored(50 + gap, side, 2, 3000)
            key = sample_key("toy", split, shard * drawn + row)
            samples.append(Sample(key, "toy", split, f"s-{number % 2}", 0, (template,), (search,)))
            number += 1
        name = shard_name("toy", split, shard)
        summary = asdict(write_shard(folder / name, samples))
        counts = {"skipped": {"too small": drawn - len(samples)}, "jitter_draws": 50, "jitter_outside": 2 + shard}
        receipt = Receipt(name, shard * drawn, drawn, **summary, config="c", **counts)
        write_json(receipt_path(folder, name), asdict(receipt))
        receipts.append(receipt)
    manifest = Manifest("toy", split, {"seed": 1}, tuple(receipts), folder)
    manifest.save()
    return manifest


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_set(folder, "train", [[0, -8, 12], [4, 0]], drawn=4)
    write_set(folder, "val", [[1]], drawn=1)
    return folder


def test_the_numbers_of_a_set_are_those_worked_out_by_hand(shards):
    manifest = load_sets(shards, "toy-train")[0]
    sizes, stats = SetSizes.of(manifest), sample_stats(manifest, most=100)
    assert (sizes.shards, sizes.pairs, stats.sampled) == (2, 5, 5)
    assert sizes.bytes == sum((shards / "toy-train" / r.shard).stat().st_size for r in manifest.shards)
    assert sizes.kb_per_pair == pytest.approx(sizes.bytes / 5000)
    assert sizes.skipped == {"too small": 3}
    assert (sizes.window_draws, sizes.windows_cut, sizes.share_cut) == (100, 5, 0.05)
    assert stats.sequences == 2
    # Sides are 10, 20, 30, 40, 50; the quantiles of five values lie at 0, ¼, ½, ¾, 1 of the way.
    assert stats.quantiles == {
        "object_frame": (12.0, 20.0, 30.0, 40.0, 48.0),
        "object_stored": (6.0, 10.0, 15.0, 20.0, 24.0),
        "template_stored": (12.0, 20.0, 30.0, 40.0, 48.0),
        "search_side": (200.0,) * 5,
        "search_kb": (3.0,) * 5,
        "template_kb": (1.0,) * 5,
        "gaps": (4.4, 6.0, 8.0, 10.0, 11.6),  # of 4, 8, 12, whichever frame comes first
    }
    assert stats.same_frame == 0.4


def test_freshness_is_the_pool_over_the_draws_of_the_run(shards):
    manifest = load_sets(shards, "toy-train")[0]
    recipe = RecipeConfig(
        name="r",
        data=DataConfig(datasets={"toy-train": 3, "other-train": 1}),
        train=TrainConfig(epochs=2, pairs_per_epoch=10, batch_size=5),
    )
    toy, other = freshness(recipe, [manifest])
    assert (toy.draws, other.draws) == (15, 5)
    assert toy.fresh == 5 / 15
    assert toy.times == 3.0
    assert (other.pairs, other.fresh, other.times) == (None, None, None)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(1, 60))
def test_a_sample_of_rows_is_spread_and_never_takes_a_row_twice(rows, most):
    receipts = tuple(Receipt(str(n), 0, r, r, 0, "", "", "") for n, r in enumerate(rows))
    manifest = Manifest("toy", "train", {}, receipts, Path("x"))
    taken = [(shard, row) for shard, wanted in spread_rows(manifest, most) for row in wanted]
    assert len(set(taken)) == len(taken) <= most
    assert all(0 <= row < rows[shard] for shard, row in taken)
    if sum(rows) <= most:
        assert len(taken) == sum(rows)
    elif all(rows) and max(rows) == min(rows) and most <= rows[0] * min(16, len(rows)):
        assert len(taken) == most
    if sum(rows):
        assert taken


def test_the_command_prints_tables_of_80_columns_and_writes_json(shards, tmp_path):
    report = tmp_path / "stats.json"
    arguments = ["stats", str(shards), "--recipe", str(recipe_file(tmp_path)), "--json", str(report)]
    result = CliRunner().invoke(main, arguments, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines()) <= 80
    for text in ("toy-train", "5.0%", "40.0%", "not here", "toy-train: skipped 3 pairs: too small"):
        assert text in result.output
    assert "all pairs were read" in result.output
    assert "Not drawn by recipe mine: toy-val." in result.output
    values = json.loads(report.read_text())
    assert [s["name"] for s in values["sets"]] == ["toy-train", "toy-val"]
    assert values["sets"][0]["gaps"] == [4.4, 6.0, 8.0, 10.0, 11.6]
    assert values["freshness"][1] == {
        "name": "toy-train", "weight": 1, "pairs": 5, "draws": 10, "fresh": 0.5, "times": 2.0
    }  # fmt: skip


def recipe_file(folder: Path) -> Path:
    path = folder / "mine.yaml"
    path.write_text(
        "data: {datasets: {other-train: 1, toy-train: 1}}\ntrain: {epochs: 2, pairs_per_epoch: 10, batch_size: 5}\n"
    )
    return path


def test_a_sample_of_a_larger_set_is_said_to_be_one(shards):
    arguments = ["stats", str(shards), "--sample", "2", "--datasets", "toy-train"]
    result = CliRunner().invoke(main, arguments)
    assert "from 2 pairs of each set that holds more" in result.output


def names(place: Path, datasets: str | None = None) -> list[str]:
    return [folder.name for folder in find_sets(place, datasets)[0]]


def test_sets_are_named_by_their_own_name_or_their_data_set(shards):
    assert names(shards) == ["toy-train", "toy-val"]
    assert names(shards, "toy") == ["toy-train", "toy-val"]
    assert names(shards, "toy-val") == ["toy-val"]
    assert names(shards / "toy-val") == ["toy-val"]
    with pytest.raises(UserError, match=r"unknown shard set .* 'toy-vall'.*did you mean 'toy-val'"):
        find_sets(shards, "toy-vall")


def test_a_folder_without_shards_is_a_mistake_that_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match="no shards here; build them with"):
        find_sets(tmp_path)
    (tmp_path / "toy-train").mkdir()
    (tmp_path / "toy-train" / "toy-train-00000.tar.zst").write_bytes(b"")
    with pytest.raises(UserError, match="only unfinished builds here"):
        find_sets(tmp_path)
