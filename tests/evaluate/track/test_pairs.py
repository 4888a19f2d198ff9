"""Single pairs of shards: what is scored is what the network says of the crops that training would cut."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lorat.evaluate.cli.track import main
from lorat.evaluate.measure.ope import overlaps
from lorat.evaluate.track import pairs
from lorat.evaluate.track.pairs import score_pairs
from lorat.evaluate.track.settings import PairSettings
from lorat.shards.manifest import load_manifest
from lorat.train.network.blocks.lorat import LoRAT, Prediction


def _scores(weights: Path, shards: Path, **how) -> np.ndarray:
    settings = PairSettings(weights=(weights,), pairs=20, workers=0, dtype="float32", **how)
    return next(score_pairs(settings, (load_manifest(shards / "toy-train"),), lambda *told: None)).overlaps


def test_the_overlap_is_that_of_the_box_with_the_highest_score(
    tiny_weights: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, truth = list[Prediction](), list[torch.Tensor]()
    predict, load = LoRAT.predict, pairs.make_loader

    def spied(network, *inputs) -> tuple[Prediction, ...]:
        seen.extend(answer := predict(network, *inputs))
        return answer

    def loaded(source, **how):
        for batch in load(source, **how):
            truth.append(batch.box[:, 0])
            yield batch

    monkeypatch.setattr(LoRAT, "predict", spied)
    monkeypatch.setattr(pairs, "make_loader", loaded)
    found = _scores(tiny_weights, tiny_shards)
    scores = torch.cat([answer.score_map.flatten(1) for answer in seen])
    boxes = torch.cat([answer.boxes.flatten(1, 2) for answer in seen]).numpy()
    best = boxes[np.arange(len(boxes)), scores.argmax(1).numpy()]
    wanted = overlaps(best, torch.cat(truth).numpy())
    assert found == pytest.approx(wanted[:20], abs=1e-5)
    assert found.std() > 0


def test_the_same_seed_scores_the_same_pairs_and_another_one_others(tiny_weights: Path, tiny_shards: Path) -> None:
    first, again, other = (_scores(tiny_weights, tiny_shards, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_command_prints_each_set_and_writes_its_numbers(
    tiny_weights: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    options = ["--shards", str(tiny_shards), "--datasets", "toy-train,toy-val", "--pairs", "16", "--workers", "0"]
    told = tmp_path / "pairs.json"
    done = CliRunner().invoke(main, ["score-pairs", "--weights", str(tiny_weights), *options, "--json", str(told)])
    assert done.exit_code == 0, done.output
    assert "toy-train (16)" in done.output and "toy-val (16)" in done.output
    values = json.loads(told.read_text())["sets"]["toy-val"]
    assert values.keys() == {"mean_iou", "over_50", "over_75"}
    assert 0 <= values["over_75"] <= values["over_50"] <= 1
