"""Made-up scores for report pages."""

import numpy as np

from lorat.evaluate.measure.scores import Entry, dataset_scores, score
from lorat.evaluate.report.page import PageInput
from lorat.evaluate.results.files import SequenceResult
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.prep.trees.base.official import official_names

NASTY = "<b>a & \"b\" 'c'</b>"


def clips_of(count, tmp_path, frames=60, dataset="lasot", names=None):
    """Return sequences without images, whose objects move along lines."""
    names = names or official_names("lasot", "test")[:count]
    clips = []
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        start, step = rng.uniform(50, 400, 2), rng.uniform(-2, 2, 2)
        corner = start + np.arange(frames)[:, None] * step
        boxes = np.concatenate([corner, corner + rng.uniform(30, 90, 2)], axis=1)
        visible = np.ones(frames, bool)
        visible[40:45] = False
        files = FrameFiles(tmp_path / name, range(1, frames + 1), "%08d.jpg")
        clips.append(Clip(dataset, "test", name, files, (Track(boxes, visible),), frames))
    return clips


def results_of(clips, error):
    """Return results whose boxes wander from the truth by some pixels a frame."""
    results = {}
    for number, clip in enumerate(clips):
        rng = np.random.default_rng((number, int(error * 10)))
        boxes = clip.tracks[0].boxes.copy()
        drift = np.cumsum(rng.normal(0, error, (len(boxes), 2)), axis=0)
        boxes += np.concatenate([drift, drift], axis=1)
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        times = np.full(len(boxes), 0.02)
        results[clip.name] = SequenceResult(clip.name, xywh, np.full(len(boxes), 0.5), times)
    return results


def page_of(clips, *, rivals=(), label="LoRAT B-224", variant="B-224", strips=None, remarks=(), convention="published"):
    name = f"{clips[0].dataset}-test"
    ours, still = score(clips, [results_of(clips, 2.0)], label, convention)
    others = [Entry(who, dataset_scores(part, [results_of(part, error)], convention)) for who, part, error in rivals]
    return PageInput(
        label=label,
        variant=variant,
        about={"variant": variant, "number type": "bfloat16"},
        scored=[[ours, *others, still]],
        strips={name: strips or ()},
        remarks=remarks,
    )
