from pathlib import Path

import pytest

from lorat.configs.load import read_yaml
from lorat.prep.trees.base.folders import natural_order
from lorat.prep.trees.base.official import official_names
from lorat.prep.trees.registry import DATASETS, parse_name, read_clips
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.errors import UserError

LASOT, TNL2K = DATASETS["lasot"], DATASETS["tnl2k"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in DATASETS:
        monkeypatch.delenv(f"LORAT_{name.upper()}", raising=False)


def folder(path):
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("text", "name", "split"),
    [
        ("lasot", "lasot", None),
        ("lasot_ext-test", "lasot_ext", "test"),
        ("got10k-vot_clean", "got10k", "vot_clean"),
        ("generic-my-split", "generic", "my-split"),
    ],
)
def test_a_name_has_a_data_set_and_perhaps_a_split(text, name, split):
    assert parse_name(text) == (DATASETS[name], split)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lasott", "unknown data set 'lasott'.*did you mean 'lasot'"),
        ("LaSOT", "unknown data set 'LaSOT'.*did you mean 'lasot'"),
        ("got10k-valid", "unknown split 'got10k-valid'.*did you mean 'got10k-val'"),
        ("lasot-", "unknown split 'lasot-'"),
        ("generic-", "unknown split 'generic-'"),
    ],
)
def test_an_unknown_name_names_the_known_ones(text, message):
    with pytest.raises(UserError, match=message):
        parse_name(text)


def test_default_splits_are_splits():
    for dataset in DATASETS.values():
        for split in (dataset.prep_split, dataset.eval_split):
            assert split is None or not dataset.splits or split in dataset.splits
        assert "-" not in dataset.name


def test_the_official_splits_of_lasot_part_it():
    train, test = official_names("lasot", "train"), official_names("lasot", "test")
    assert (len(train), len(test), len({*train, *test})) == (1120, 280, 1400)
    assert len(official_names("lasot_ext", "test")) == 150


def test_an_unknown_split_of_read_clips_is_an_error(tmp_path):
    with pytest.raises(UserError, match="unknown split 'lasot-val'"):
        read_clips(LASOT, "val", tmp_path)


def test_a_tree_without_sequences_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no sequence of lasot-train; .*--root lasot=DIR"):
        read_clips(LASOT, "train", tmp_path)


def test_a_root_that_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="missing: cannot be listed"):
        read_clips(LASOT, "train", tmp_path / "missing")


def test_the_option_wins_over_the_environment_over_the_file_over_raw(tmp_path, monkeypatch):
    option, variable, listed = (folder(tmp_path / name) for name in ("o", "v", "l"))
    in_raw = folder(tmp_path / "raw/LaSOT")
    raw = tmp_path / "raw"
    assert TreeOptions(raw=raw).find(LASOT) == in_raw
    (tmp_path / "paths.yaml").write_text(f"lasot: {listed}\ngot10k:\n")
    assert TreeOptions(raw=raw).find(LASOT) == listed
    monkeypatch.setenv("LORAT_LASOT", str(variable))
    assert TreeOptions(raw=raw).find(LASOT) == variable
    assert TreeOptions(raw=raw, root=(f"lasot={option}",)).find(LASOT) == option


def test_a_named_folder_that_is_missing_is_an_error_even_if_raw_has_one(tmp_path):
    folder(tmp_path / "raw/LaSOT")
    with pytest.raises(UserError, match=r"no folder .*gone \(--root lasot\)"):
        TreeOptions(raw=tmp_path / "raw", root=(f"lasot={tmp_path}/gone",)).find(LASOT)


def test_a_missing_tree_says_where_it_was_looked_for_and_what_to_do():
    with pytest.raises(UserError) as error:
        TreeOptions().find(LASOT)
    message = str(error.value)
    assert "no folder data/raw/LaSOT (LaSOT under --raw)" in message
    assert "--root lasot=DIR or LORAT_LASOT=DIR" in message


def test_missing_trees_are_listed_together(tmp_path):
    folder(tmp_path / "raw/GOT-10k")
    wanted = [(LASOT, "test"), (DATASETS["got10k"], "val"), (TNL2K, "train")]
    missing = TreeOptions(raw=tmp_path / "raw").missing(wanted)
    assert list(missing) == ["lasot-test", "tnl2k-train"]
    assert missing["tnl2k-train"].endswith("raw/TNL2K_TRAIN (TNL2K_TRAIN under --raw)")


def test_a_data_set_of_two_trees_is_found_by_its_split(tmp_path):
    raw = tmp_path / "raw"
    test = folder(raw / "TNL2K_TEST")
    assert TreeOptions(raw=raw).find(TNL2K, "test") == test
    assert TreeOptions(raw=raw).find(TNL2K) == raw
    with pytest.raises(UserError, match="TNL2K_TRAIN under --raw"):
        TreeOptions(raw=raw).find(TNL2K, "train")


def test_an_unknown_name_in_paths_yaml_is_an_error(tmp_path):
    (tmp_path / "paths.yaml").write_text("lasott: /data\n")
    with pytest.raises(UserError, match=r"paths\.yaml 'lasott'.*did you mean 'lasot'"):
        TreeOptions(raw=tmp_path).find(LASOT)


def test_the_shipped_paths_yaml_names_every_data_set():
    shipped = Path(__file__).parents[3] / "configs/paths.yaml"
    assert list(read_yaml(shipped)) == list(DATASETS)


def test_root_options_are_name_and_folder():
    roots = TreeOptions(root=("lasot=/a", "otb=b=c")).roots
    assert roots == {"lasot": Path("/a"), "otb": Path("b=c")}
    for text, message in (("lasot", "NAME=DIR"), ("lasot=", "NAME=DIR"), ("x=/a", "unknown data")):
        with pytest.raises(UserError, match=message):
            TreeOptions(root=(text,))


def test_numbers_in_names_sort_as_numbers():
    assert natural_order(["b-1", "a-10", "a-2", "2x"]) == ["2x", "a-2", "a-10", "b-1"]
