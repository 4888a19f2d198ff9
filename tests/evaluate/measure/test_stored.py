"""GOT-10k's ``performance.json``: what its toolkit counted, beside trackers whose boxes are there."""

import json

import numpy as np
import pytest

from lorat.evaluate.measure.scores import Entry, dataset_scores
from lorat.evaluate.measure.stored import stored_scores
from lorat.evaluate.report.tables import comparison_table, sequences_csv
from lorat.evaluate.results.formats import toolkit_report
from lorat.shards.base.errors import UserError
from tests.evaluate.pages import clips_of, results_of
from tests.evaluate.result_files import clip_of


def record(curves, fps, **more):
    """Return what the toolkit writes of a tracker, or of a sequence, of most sets."""
    scores = {"success_score": curves.auc, "precision_score": curves.precision_20, "success_rate": curves.op50}
    lines = {"success_curve": curves.success.tolist(), "precision_curve": curves.precision.tolist()}
    return lines | scores | {"speed_fps": fps or -1} | more


def read_stored(path, clips):
    return stored_scores(toolkit_report(path), clips, path)


def report(scores, **names):
    each = {names.get(one.name, one.name): record(one.curves, one.fps) for one in scores.sequences}
    return {"overall": record(scores.curves, scores.fps), "seq_wise": each}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_stored_curves_give_the_scores_that_the_boxes_give(tmp_path):
    clips = clips_of(8, tmp_path)
    true = dataset_scores(clips, [results_of(clips, 2.0)])
    odd = {clips[0].name: clips[0].name.title()}  # another spelling, as of result files
    path = write(tmp_path / "performance.json", {"KCF": report(true, **odd), "ECO": report(true)})
    stored = read_stored(path, clips)
    assert list(stored) == ["KCF", "ECO"] == list(read_stored(tmp_path, clips)), "named by its folder too"
    for mine, right in zip(stored["KCF"].sequences, true.sequences, strict=True):
        assert (mine.name, mine.frames, mine.invalid_frames) == (right.name, right.frames, right.invalid_frames)
    assert stored["KCF"].curves.auc == pytest.approx(true.curves.auc)
    assert stored["KCF"].curves.precision_20 == pytest.approx(true.curves.precision_20)
    assert stored["KCF"].fps == pytest.approx(true.fps)
    assert np.isnan(stored["KCF"].curves.norm_precision_20), "the file has no such curve"
    assert len(read_stored(path, clips[:3])["ECO"].sequences) == 3
    entries = [Entry("KCF", stored["KCF"]), Entry("DiMP", true)]
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in comparison_table(entries).columns}
    assert columns["AUC"][0] == columns["AUC"][1] and columns["p"][1] == "1.000" and columns["Pnorm"][0] == "-"
    first = sequences_csv([[*entries, entries[0]]]).splitlines()[1].split(",")
    assert first[1] == "KCF" and first[-2:] == ["", "50.0"]


@pytest.mark.parametrize("speed", ["speed_fps", "speed"])  # of the toolkit and of its site
def test_got10ks_own_report_has_ao_and_no_auc(tmp_path, speed):
    clips = [clip_of(f"GOT-10k_Val_00000{k}", "got10k", "val") for k in (1, 2, 3)]
    each = {"ao": 0.2, "sr": 0.1, speed: 90.0, "length": 5}
    kcf = {"overall": {"ao": 0.203, "sr": 0.177, speed: 94.66}, "seq_wise": {clip.name: each for clip in clips}}
    path = write(tmp_path / "performance.json", {"KCF": kcf})
    scores = read_stored(path, clips)["KCF"]
    assert (scores.got10k.ao, scores.got10k.sr50, scores.got10k.frames, scores.got10k.speed) == (
        0.203,
        0.177,
        15,
        94.66,
    )
    columns = {str(c.header): [str(cell) for cell in c.cells] for c in comparison_table([Entry("KCF", scores)]).columns}
    assert (columns["AUC"], columns["p"], columns["AO"], columns["SR0.75"]) == (["-"], ["-"], ["20.3"], ["-"])
    assert columns["fps"] == ["90"]
    assert read_stored(path, clips[:2])["KCF"].got10k is None, "its AO is over all of its sequences"
    kcf["overall"]["succ_curve"] = np.linspace(1.0, 0.0, 101).tolist()
    assert read_stored(write(path, {"KCF": kcf}), clips)["KCF"].got10k.sr75 == pytest.approx(0.25)
    kcf["overall"]["succ_curve"] = [1.0, 0.0]
    with pytest.raises(UserError, match="succ_curve: 2 values, not 101"):
        read_stored(write(path, {"KCF": kcf}), clips)


def test_other_files_are_none_and_odd_ones_are_refused_in_a_line(tmp_path):
    clips = clips_of(2, tmp_path)
    good = report(dataset_scores(clips, [results_of(clips, 2.0)]))
    assert toolkit_report(tmp_path) is None is toolkit_report(write(tmp_path / "a.json", {"car-1": [[1, 2, 3, 4]]}))
    path = tmp_path / "performance.json"
    short = {**good, "seq_wise": {clips[0].name: {"success_curve": [1.0]}}}
    for content, says in (
        ({"KCF": {"seq_wise": {}}}, "is not as GOT-10k's toolkit writes it"),
        ({"KCF": short}, "success_curve: .* values, not 21"),
        ({"KCF": {**good, "seq_wise": {"x": {}}}}, "has no score of lasot-test"),
    ):
        with pytest.raises(UserError, match=says):
            read_stored(write(path, content), clips)
