"""The three commands, bare: raw trees in data/raw become a scored tracker and a submission zip."""

import json
import zipfile
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from lorat.evaluate.cli import main as evaluate
from lorat.prep.cli import main as prep
from lorat.train.cli import main as train

TOY = {
    "lasot-train": 3,
    "lasot-test": 2,
    "lasot-ext": 1,
    "got10k-train": 3,
    "got10k-val": 2,
    "got10k-test": 2,
    "trackingnet-train": 2,
    "trackingnet-test": 1,
    "coco-train": 4,
    "coco-val": 1,
    "tnl2k-train": 1,
    "tnl2k-test": 1,
    "lasot-length": 14,
    "got10k-length": 14,
    "trackingnet-length": 14,
    "tnl2k-length": 14,
}


def run(command, *arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def tiny_toy(tmp_path: Path) -> str:
    """The toy variant made smaller, as a user's own file."""
    shipped = Path(__file__).parents[1] / "configs/variants/toy.yaml"
    variant = yaml.safe_load(shipped.read_text())
    variant["name"] = "tiny"
    variant["backbone"]["args"] |= {"embed_dim": 32, "depth": 1, "num_heads": 2}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(variant))
    return str(path)


def test_the_three_commands_work_with_their_default_paths(tmp_path, monkeypatch, tiny_toy):
    monkeypatch.chdir(tmp_path)
    run(prep, "toyworld", "--workers=1", *(f"--{name}={n}" for name, n in TOY.items()))
    run(prep, "build", "--pairs=40", "--workers=1")
    short = ["train.epochs=2", "train.pairs_per_epoch=32", "train.batch_size=16", "data.workers=0"]
    printed = run(train, f"--variant={tiny_toy}", *(f"--set={text}" for text in short))
    weights = tmp_path / "runs/tiny-toy/checkpoints/epoch_0002/model.safetensors"
    assert weights.is_file() and "epoch_0002" in printed
    printed = run(evaluate, "--submit-zip=got10k", "--device=cpu")
    out = tmp_path / "runs/tiny-toy/eval/epoch_0002"
    scores = json.loads((out / "metrics.json").read_text())["datasets"]
    assert {"lasot-test", "lasot_ext-test", "tnl2k-test", "got10k-val"} <= set(scores)
    for name in ("success.png", "precision.png"):
        assert (out / name).stat().st_size > 10_000
    assert list(out.glob("video.*"))
    (zipped,) = out.glob("*.zip")
    assert zipped.stem.endswith("-unofficial")
    with zipfile.ZipFile(zipped) as file:
        assert "GOT-10k_Test_000001/GOT-10k_Test_000001_001.txt" in file.namelist()
    assert "never moving" in printed and zipped.name in printed
