import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from rich.console import Console

from lorat.evaluate.measure.attributes import AttributeScores
from lorat.evaluate.measure.ope import Curves
from lorat.evaluate.measure.scores import Entry, score
from lorat.evaluate.measure.toolkits import Got10kScores
from lorat.evaluate.report.plots import KINDS, coloured, plot_curves, set_panel
from lorat.evaluate.report.tables import metrics_document, score_tables, score_values
from lorat.evaluate.results.files import SequenceResult
from lorat.shards.base.storage import write_json
from lorat.shards.pixels.geometry import xyxy_to_xywh


@pytest.fixture
def scored(make_clip) -> list[Entry]:
    clips = [make_clip("first", 6), make_clip("second", 9, 1)]
    results = {}
    for clip in clips:
        boxes = xyxy_to_xywh(clip.tracks[0].boxes)
        count = len(boxes)
        results[clip.name] = SequenceResult(clip.name, boxes, np.ones(count), np.full(count, 0.02))
    return score(clips, [results], "LoRAT tiny")


def changed(scored, **changes):
    """Return the entries with other fields in the scores of the first."""
    return [Entry("LoRAT tiny", replace(scored[0].scores, **changes)), *scored[1:]]


@pytest.fixture
def text(scored) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(*score_tables([scored]))
    return console.export_text()


def test_the_table_sets_the_tracker_beside_never_moving(scored, text):
    ours = next(line for line in text.splitlines() if "LoRAT tiny" in line)
    still = next(line for line in text.splitlines() if " never moving" in line and "P" not in line)
    assert "got10k-val (2)" in ours
    assert "95.2" in ours  # 20/21: the most that the 21 strict thresholds give
    assert "50" in ours.split()  # frames a second
    assert f"{100 * scored[-1].scores.curves.auc:.1f}" in still
    assert "AO" not in text, "columns that no test set fills are left out"


def test_every_sequence_of_a_small_test_set_is_named(scored, text):
    second = next(line for line in text.splitlines() if "second" in line)
    assert "first" in text and f"{100 * scored[-1].scores.sequences[1].curves.auc:.1f}" in second
    tables = list(score_tables([changed(scored, sequences=scored[0].scores.sequences * 11)]))
    assert len(tables) == 1


def test_the_document_is_plain_json_and_holds_every_score(scored, tmp_path):
    path = tmp_path / "deep" / "metrics.json"
    write_json(path, metrics_document([scored], {"tracker": {"variant": "tiny"}}))
    document = json.loads(path.read_text())
    values = document["datasets"]["got10k-val"]
    assert document["tracker"] == {"variant": "tiny"}
    assert values["tracker"]["auc"] == pytest.approx(20 / 21, abs=1e-6)
    assert values["never_moving"]["fps"] is None
    assert values["sequences"]["second"]["tracker"]["frames"] == 9
    assert len(values["tracker"]["success_curve"]) == 21
    assert (values["tracker"]["convention"], values["tracker"]["runs"]) == ("published", 1)
    assert values["tracker"]["attributes"] == {}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_the_document_holds_each_toolkits_measures_and_the_attributes(scored):
    curves = Curves(np.full(21, 0.5), np.full(51, 0.6), np.full(51, 0.7))
    changes = dict(
        got10k=Got10kScores(0.7, 0.8, np.nan, 13, None),
        attributes=(AttributeScores("IV", "Illumination variation", 2, curves),),
        convention="matlab",
        runs=3,
    )
    document = metrics_document([changed(scored, **changes)], {})
    values = document["datasets"]["got10k-val"]["tracker"]
    assert values["got10k"] == {"ao": 0.7, "sr50": 0.8, "sr75": None, "frames": 13, "speed": None}
    assert (values["convention"], values["runs"]) == ("matlab", 3)
    attribute = values["attributes"]["IV"]
    assert (attribute["title"], attribute["sequences"]) == ("Illumination variation", 2)
    assert [attribute[k] for k in ("auc", "precision", "norm_precision")] == [0.5, 0.6, 0.7]
    assert attribute["success_curve"] == [0.5] * 21


def test_what_a_training_logs_is_named_by_test_set(scored):
    own = Got10kScores(0.7, 0.8, np.nan, 13, None)
    values = score_values([changed(scored, got10k=own)])
    assert values["got10k-val/auc"] == pytest.approx(20 / 21, abs=1e-6)
    assert values["got10k-val/ao"] == 0.7 and "got10k-val/sr75" not in values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_plots_are_png_images_with_a_panel_a_test_set(scored, tmp_path, kind, count):
    path = plot_curves([set_panel(coloured([scored])[0])] * count, kind, tmp_path / "curves.png")
    height, width = cv2.imread(str(path)).shape[:2]
    assert width > 600 * min(3, count)
    assert height > 500 * (1 + (count > 3))


def test_a_tracker_has_one_colour_in_all_test_sets(scored):
    one, still = scored
    others = [Entry(f"T{k}", one.scores) for k in range(7)]
    first, second = coloured([[one, *others[1:], still], [others[0], *others[::-1], still]])
    known = {line.label: line.colour for line in (*first, *second)}
    assert all(line.colour == known[line.label] for line in (*first, *second))
    assert len(set(known.values())) == 9 and (known["LoRAT tiny"], known[still.label]) == ("c0", "still")


def test_the_same_scores_give_the_same_picture(scored, tmp_path):
    for end in ("png", "pdf"):
        paths = [
            plot_curves([set_panel(coloured([scored])[0])], KINDS[0], tmp_path / f"{name}.{end}") for name in ("a", "b")
        ]
        assert paths[0].read_bytes() == paths[1].read_bytes()
