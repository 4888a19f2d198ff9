from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lorat.evaluate.cli import main as evaluate
from lorat.evaluate.track.testsets import choose_test_sets
from lorat.prep.cli import main
from lorat.prep.trees.plugin import add_trees
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import encode

DOCS = Path(__file__).parents[3] / "docs/data.md"


def documented_example() -> str:
    """The first Python block of docs/data.md."""
    return DOCS.read_text().split("```python\n")[1].split("```")[0]


@pytest.fixture(autouse=True)
def table(monkeypatch, tmp_path):
    """The table of data sets, put back afterwards."""
    before = dict(DATASETS)
    monkeypatch.chdir(tmp_path)
    yield
    DATASETS.clear()
    DATASETS.update(before)


@pytest.fixture
def zoo(tmp_path, files, images):
    """The tree that the documented example reads."""
    for split, name in (("train", "lynx"), ("train", "otter"), ("test", "wolf")):
        folder = tmp_path / "zoo" / split / name
        files(folder, {"boxes.csv": "1,2,3,4\n2,2,3,4\n0,0,0,0\n"})
        images(folder, ["a.png", "b.png", "c.png"])
    return tmp_path / "zoo"


def own_file(tmp_path, text, name="my_trees.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


def row(name="zoo", read="lambda dataset, split, root: []", more=""):
    return (
        "from lorat.prep.trees import *\nimport numpy as np\nfrom pathlib import Path\n"
        f"{more}\nZOO = Dataset(name='{name}', folder='zoo', splits=('train',), read={read})\n"
    )


def test_the_documented_example_is_read_as_it_stands(tmp_path, zoo):
    (dataset,) = add_trees(own_file(tmp_path, documented_example()))
    assert DATASETS["zoo"] is dataset
    clips = read_clips(dataset, "train", zoo)
    assert [(clip.name, len(clip.frames)) for clip in clips] == [("lynx", 3), ("otter", 3)]
    assert clips[0].tracks[0].visible.tolist() == [True, True, False]
    assert [clip.name for clip in read_clips(dataset, "test", zoo)] == ["wolf"]


def test_an_own_data_set_is_a_name_like_any_other(tmp_path, zoo, monkeypatch):
    add_trees(own_file(tmp_path, documented_example()))
    assert TreeOptions(root=(f"zoo={zoo}",)).roots == {"zoo": zoo}
    monkeypatch.setenv("LORAT_ZOO", str(zoo))
    assert TreeOptions().find(DATASETS["zoo"]) == zoo
    (test_set,) = choose_test_sets(["zoo"], [], TreeOptions())
    assert (test_set.name, [clip.name for clip in test_set.clips]) == ("zoo-test", ["wolf"])


def test_shards_are_built_of_an_own_data_set(tmp_path, files):
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    for name in ("lynx", "otter"):
        folder = tmp_path / "zoo/train" / name
        files(folder, {"boxes.csv": "20,20,30,30\n24,20,30,30\n28,20,30,30\n"})
        for frame in "abc":
            (folder / f"{frame}.jpg").write_bytes(encode(noise))
    own = own_file(tmp_path, documented_example())
    command = ["build", "--tree", str(own), "--datasets", "zoo", "--root", f"zoo={tmp_path}/zoo"]
    command += ["--shards", str(tmp_path / "shards"), "--pairs", "4", "--workers", "1"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "shards/zoo-train").glob("*.tar.zst"))


def test_nothing_is_run_that_was_not_named(tmp_path):
    own_file(tmp_path, "raise SystemExit('was run')")
    result = CliRunner().invoke(main, ["build", "--datasets", "zoo"])
    assert result.exit_code == 2
    assert "unknown data set 'zoo'" in result.output
    result = CliRunner().invoke(main, ["build", "--tree", "my_trees.py", "--help"])
    assert result.exit_code == 0
    assert "was run" not in result.output


def test_the_evaluation_takes_an_own_data_set_too(tmp_path, zoo):
    own_file(tmp_path, documented_example())
    command = ["--tree", "my_trees.py", "--datasets", "zoo", "--weights", "none.safetensors"]
    result = CliRunner().invoke(evaluate, [*command, "--root", f"zoo={zoo}"])
    assert (result.exit_code, "zoo" in DATASETS) == (2, True)
    assert "none.safetensors: no such weights file" in result.output


def test_a_file_named_again_replaces_what_it_defined(tmp_path):
    own = own_file(tmp_path, row())
    first, second = add_trees(own), add_trees(own)
    assert DATASETS["zoo"] is second[0] is not first[0]


def test_a_file_may_define_several_and_use_rows_of_the_table(tmp_path):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass, replace\n"
        "from lorat.prep.trees import DATASETS\nGENERIC = DATASETS['generic']\n"
        "@dataclass\nclass Helper:\n    x: int\n"
        "A = replace(GENERIC, name='a', folder='A')\nB = replace(GENERIC, name='b', folder='B')\n"
        "AGAIN = A\n"
    )
    assert [dataset.name for dataset in add_trees(own_file(tmp_path, text))] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no data set; write"),
        ("x = (", "line 1: is no Python"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'; install it"),
        (row("lasot"), "the name 'lasot' is taken, in lorat"),
        (row() + row().replace("ZOO", "ZOO2"), "the name 'zoo' is taken"),
        (row("my-zoo"), "'my-zoo': a name is lower-case"),
        (row("Zoo"), "'Zoo': a name is lower-case"),
        (row().replace("('train',)", "('train')"), "splits must be a tuple"),
        (row().replace("read=", "prep_split='val', read="), "'val' is none of its splits"),
        (row().replace("'zoo', splits", "{'test': 'x'}, splits"), "folder must be one name"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        add_trees(own_file(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--tree .*gone\.py: no such Python file"):
        add_trees(tmp_path / "gone.py")


def test_a_name_of_another_file_is_taken(tmp_path):
    add_trees(own_file(tmp_path, row()))
    with pytest.raises(UserError, match=r"taken, in .*my_trees\.py"):
        add_trees(own_file(tmp_path, row(), "others.py"))


CLIP = "Clip(dataset.name, split, 'a', FrameFiles(Path('.'), ('a.png', 'b.png')), (%s,), 2)"
GOOD = "Track(np.array([[0, 0, 5, 5], [1, 1, 5, 5.0]]), np.array([True, True]))"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("None", "must return a list of Clip"),
        ("[3]", "must return a list of Clip, not a list with int"),
        (f"[{CLIP % GOOD}, {CLIP % GOOD}]", "2 clips are called 'a'"),
        (f"[{CLIP % GOOD}]".replace("dataset.name", "'zo'"), "says zo-train, not zoo-train"),
        (f"[{CLIP % GOOD}]".replace(f"({GOOD},)", "()"), "clip 'a' has no track"),
        (f"[{CLIP % GOOD}]".replace("[1, 1, 5, 5.0]", "[1, 1, 5, 1.0]"), "box has no size"),
        (f"[{CLIP % GOOD}]".replace("5.0", "5"), r"boxes are int64 \(2, 4\), not float64"),
        (f"[{CLIP % GOOD}]".replace("('a.png', 'b.png')", "('a.png',)"), r"not float64 \(1, 4\)"),
        (f"[{CLIP % GOOD}]".replace("[True, True]", "[1, 1]"), "visible is int64"),
    ],
)
def test_what_a_reader_yields_is_checked(tmp_path, value, message):
    (dataset,) = add_trees(own_file(tmp_path, row(read=f"lambda dataset, split, root: {value}")))
    with pytest.raises(UserError, match=f"my_trees.py: data set 'zoo': .*{message}"):
        read_clips(dataset, "train", tmp_path)


def test_a_fault_of_the_file_itself_keeps_its_traceback(tmp_path):
    (dataset,) = add_trees(own_file(tmp_path, row(read="lambda dataset, split, root: [1 / 0]")))
    with pytest.raises(ZeroDivisionError):
        read_clips(dataset, "train", tmp_path)
