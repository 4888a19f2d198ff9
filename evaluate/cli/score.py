"""``lorat-eval score``: the scores of boxes that any tracker wrote; ``score-masks``: of masks; ``score-pairs``: of
single crops of shards.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import click

from lorat.evaluate.cli.compare import latency_in
from lorat.evaluate.cli.options import ScoringOptions
from lorat.evaluate.measure.matlab import MATLAB_SETS, repairs
from lorat.evaluate.measure.scores import DatasetScores, Entry, hides_truth, score
from lorat.evaluate.measure.segmentation import ObjectScores, mean_scores, score_object
from lorat.evaluate.report.tables import attribute_table, metrics_document, not_official, notes_of, score_tables
from lorat.evaluate.results.find import Layout
from lorat.evaluate.results.foreign import Foreign, read_foreign
from lorat.evaluate.results.regions import STARTED, Region, coded, of_mask, read_regions, trajectory_file
from lorat.evaluate.segment.files import Layout as MaskLayout
from lorat.evaluate.segment.files import place_of, read_masks
from lorat.evaluate.track.folder import METRICS, read_identity
from lorat.evaluate.track.settings import PairSettings
from lorat.evaluate.track.testsets import SCORED_SPLITS, TestSet, choose_test_sets, cut
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.datasets.vot import truth_files
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import OUT, plain_table, progress_bar, say, start_logging
from lorat.shards.base.disk import check_can_write
from lorat.shards.base.errors import UserError, counted, some
from lorat.shards.base.options import option
from lorat.shards.base.storage import Location, write_json
from lorat.shards.manifest import load_manifest

_MASK_COLUMNS = {
    **{"j": "J", "f": "F", "jf": "J&F", "quality": "Q", "accuracy": "A", "robustness": "R"},
    **{"nre": "NRE", "dre": "DRE", "adq": "ADQ"},
}
"""Field of `ObjectScores` → heading."""
_PAIR_COLUMNS = {"mean_iou": "mean IoU", "over_50": "over 0.5", "over_75": "over 0.75"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions(ScoringOptions):
    """What is scored."""

    results: Path = option(
        help="A tracker's results: folder, zip or JSON, in any layout; of several runs, their folder."
    )
    dataset: str = option(metavar="NAME", help="Test set: lasot, got10k-val, …; a bare name means the scored split.")
    layout: Layout = option("auto", help="Layout of the results; auto tells it by what is there.")
    label: str | None = option(None, help="What tables call the tracker.  [default: the folder's, or our variant's]")
    sequences: str | None = option(None, metavar="NAMES", help="Only these sequences, with commas between.")
    out: Path | None = option(None, kind="folder", help="Folder for metrics.json; none is written without it.")

    def test_set(self, trees: TreeOptions) -> TestSet:
        """Read what --dataset and --sequences name."""
        if "," in self.dataset:
            raise UserError(f"--dataset {self.dataset}: name one test set")
        split = SCORED_SPLITS.get(self.dataset)
        name = f"{self.dataset}-{split}" if split else self.dataset
        return cut(choose_test_sets([name], (), trees), split_names(self.sequences), None)[0]


@click.command("score", cls=Command)
@options_of(ScoreOptions, "options")
@options_of(TreeOptions, "trees")
def score_command(options: ScoreOptions, trees: TreeOptions) -> None:
    """Score boxes that any tracker wrote.

    Reads results in our layout or that of pytracking, of the OTB and LaSOT toolkits, or of GOT-10k, and prints their
    scores beside a tracker that never moves.

    \b
    lorat-eval score --results pytracking/tracking_results/dimp/dimp50 --dataset lasot

    Exit status: 0 done; 1 sequences have no result that can be used, the others are scored; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    options.check_files(*([options.out] if options.out else ()))
    item = options.test_set(trees)
    if not item.clips:
        raise UserError(f"{item.name}: {next(iter(item.unread.values()))}")
    if all(map(hides_truth, item.clips)):
        zips = f"--results {options.results} --submit-zip {item.dataset.name} zips them for it"
        remedy = f"lorat-eval export-results {zips}"
        raise UserError(f"--dataset {item.name}: its ground truth is not public, so its server scores it; {remedy}")
    with progress_bar("reading results") as progress:
        mends = repairs(item.dataset.name, options.convention)
        foreign = read_foreign(options.results, item.clips, options.layout, progress, repairs=mends)
    clips = [clip for clip in item.clips if clip.name in foreign.runs[0]]
    identity = read_identity(foreign.home.parent.parent) if foreign.layout == "lorat" else None
    label = options.label or (identity.label if identity else foreign.label)
    entries = score(clips, foreign.runs, label, options.convention)
    if not entries:
        raise UserError(f"{options.results}: holds no result of a sequence of {item.name} with ground truth")
    ours = replace(entries[0].scores, latency=latency_in(foreign, entries[0].scores.fps))
    entries[0] = Entry(label, ours)
    for table in score_tables([entries]):
        OUT.print(table)
    if ours.attributes:
        OUT.print(attribute_table(ours))
    remarks = _remarks(item, foreign, ours)
    if ours.convention != options.convention:
        remarks.append(f"{item.name}: counted as published: matlab is known here for {', '.join(MATLAB_SETS)} alone")
    for line in remarks:
        say(line)
    failed = dict.fromkeys(foreign.missing, "no result") | dict(foreign.refused) | dict(item.unread)
    if options.out is not None:
        how = {"layout": foreign.layout, "runs": ours.runs, "convention": ours.convention}
        tracker = {"label": label, "results": str(options.results), **how}
        about = {"tracker": tracker, "failed": {item.name: failed} if failed else {}, "notes": remarks}
        write_json(options.out / METRICS, metrics_document([entries], about))
        say(f"metrics: {options.out / METRICS}")
    options.write_csv([entries])
    click.get_current_context().exit(1 if failed else 0)


def _remarks(item: TestSet, foreign: Foreign, scores: DatasetScores) -> list[str]:
    """Say how the results were read, and which sequences the scores are of."""
    lines = [*notes_of([scores]), f"read as {foreign}", *foreign.notes]
    if foreign.missing:
        lacking = f"{len(foreign.missing)} of {counted(len(item.clips), 'sequence')} ({some(foreign.missing, 5)})"
        lines.append(
            f"{item.name}: no result of {lacking}: the scores are of the {len(scores.sequences)} that are there"
        )
    lines += item.lines()
    if hidden := scores.unscored:
        lines.append(f"{item.name}: no ground truth of {counted(len(hidden), 'sequence')} ({some(hidden, 5)})")
    return [*lines, *not_official(scores)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreMasksOptions:
    """Results, and the masks that they are held against."""

    results: Path = option(
        kind="folder",
        exists=True,
        help="The toolkit's trajectories, a folder a sequence (<workspace>/results/<name>/baseline), or the masks that "
        "--segment wrote.",
    )
    sequences: Path = option(kind="folder", exists=True, help="VOT's sequences, or a workspace, whose truth are masks.")
    json: Path | None = option(None, kind="file", help="File for the scores of every object, fractions of 1.")

    def find(self, truth: Path, name: str, alone: bool) -> list[Region] | None:
        """Read the regions of an object by its annotation and its clip's name; None where there are none. The toolkit
        calls the one object of a sequence as the sequence. The first frame's region is given, not found.
        """
        sequence = truth.parent.name
        if (file := trajectory_file(self.results / sequence, sequence if alone else name)) is not None:
            return read_regions(file)
        if not any(place_of(self.results / name, layout).exists() for layout in get_args(MaskLayout)):
            return None
        found = [of_mask(mask) for _, mask in read_masks(self.results / name)]
        return [coded(STARTED), *found[1:]]

    def score(self) -> tuple[dict[str, dict[str, ObjectScores]], list[str]]:
        """Return the scores of each sequence's objects by name, and the names of those that have no result."""
        files, missing = truth_files(self.sequences), list[str]()
        scored = defaultdict[str, dict[str, ObjectScores]](dict)
        objects = Counter(file.parent for file in files.values())
        for clip in read_clips(DATASETS["vot"], "all", self.sequences):
            truth, frames = files[clip.name], clip.images or len(clip.frames)
            found = self.find(truth, clip.name, objects[truth.parent] == 1)
            if found is None:
                missing.append(clip.name)
                continue
            ignored = truth.with_name("groundtruth__ignore.txt")
            scored[truth.parent.name][clip.name] = score_object(
                _of_length(read_regions(truth), frames, truth),
                _of_length(found, frames, self.results / clip.name),
                clip.frame_size(),
                _of_length(read_regions(ignored), frames, ignored) if ignored.is_file() else None,
            )
        return scored, missing


@click.command("score-masks", cls=Command)
@options_of(ScoreMasksOptions, "options")
def score_masks_command(options: ScoreMasksOptions) -> None:
    """Score masks as VOT's toolkit does.

    Reads the toolkit's trajectories of an unsupervised run, masks or boxes, text or binary, of one or
    several objects a sequence, or the masks that --segment wrote, PNG or RLE, and prints J, F and their
    mean, quality, accuracy, robustness and what went wrong.

    \b
    lorat-eval score-masks --results ws/results/LoRAT/baseline --sequences ws/sequences

    Exit status: 0 done; 1 objects have no result, the others are scored; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    if options.json is not None:
        check_can_write(options.json)
    scored, missing = options.score()
    if not scored:
        where = f"{options.results / '<sequence>'}/<object>_001.txt or .bin"
        raise UserError(f"{options.results}: no trajectory of {some(missing, 3)} ({where}); check --results")
    _show_masks(scored)
    if missing:
        say(f"no result of {counted(len(missing), 'object')} ({some(missing, 5)}): the scores are of the others")
    if options.json is not None:
        every = {name: _fields(scores) for objects in scored.values() for name, scores in objects.items()}
        write_json(options.json, {"mean": _fields(_mean_of(scored)), "objects": every})
        say(f"scores of objects: {options.json}")
    click.get_current_context().exit(1 if missing else 0)


def _of_length(regions: list[Region], frames: int, path: Path) -> Sequence[Region]:
    """Return a region a frame: an annotation may end early, as the toolkit reads it."""
    if len(regions) > frames or (len(regions) < frames and not path.name.startswith("groundtruth")):
        raise UserError(f"{path}: {counted(len(regions), 'region')} for {counted(frames, 'frame')}; check --sequences")
    return regions + [coded(0)] * (frames - len(regions))


def _fields(scores: ObjectScores) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(scores).items()}


def _mean_of(scored: Mapping[str, Mapping[str, ObjectScores]]) -> ObjectScores:
    return mean_scores([list(objects.values()) for objects in scored.values()])


def _show_masks(scored: Mapping[str, Mapping[str, ObjectScores]]) -> None:
    table = plain_table(["sequence", *_MASK_COLUMNS.values()], "Scores in per cent")
    rows = {name: mean_scores([list(objects.values())]) for name, objects in scored.items()}
    for name, scores in (rows | {f"all ({len(rows)})": _mean_of(scored)}).items():
        values = [getattr(scores, field) for field in _MASK_COLUMNS]
        table.add_row(name, *("-" if math.isnan(value) else f"{100 * value:.1f}" for value in values))
    OUT.print(table)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOptions:
    """Which shards, and a file for the numbers."""

    shards: Location = option(
        Path("data/shards"), help="Folder or URL (s3://bucket/shards) that lorat-prep build wrote."
    )
    datasets: str = option(metavar="NAMES", help="Shard sets with commas between: got10k-val,lasot-train.")
    json: Path | None = option(None, kind="file", help="File for the numbers.")


@click.command("score-pairs", cls=Command)
@options_of(PairSettings, "settings", "Weights and pairs")
@options_of(PairOptions, "options", "Data")
def score_pairs_command(settings: PairSettings, options: PairOptions) -> None:
    """Score single pairs of shards, thousands of them.

    Cuts template and search crops as training does, seeded, without flips and colours, and prints the overlap of the
    box with the highest score. It is steadier than tracking: networks that are nearly alike can be told apart.

    \b
    lorat-prep build --root generic=/data/mine --datasets generic-test --shards data/test-pairs
    lorat-eval score-pairs --run runs/S-224-still --shards data/test-pairs --datasets generic-test

    Exit status 2 when an input is missing or does not fit.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    if not (names := split_names(options.datasets)):
        raise UserError("--datasets: names no shard set")
    if options.json is not None:
        check_can_write(options.json)
    manifests = tuple(load_manifest(options.shards / name) for name in names)
    table = plain_table(["set (pairs)", *_PAIR_COLUMNS.values()], "Overlaps in single search crops, in per cent")
    settings.file()  # a wrong name is told before torch, which takes seconds, is imported
    from lorat.evaluate.track.pairs import score_pairs

    with progress_bar("pairs") as progress:
        scored = list(score_pairs(settings, manifests, progress))
    for scores in scored:
        row = (f"{100 * scores.values[name]:.1f}" for name in _PAIR_COLUMNS)
        table.add_row(f"{scores.name} ({len(scores.overlaps):,})", *row)
    OUT.print(table)
    if options.json is not None:
        how = {"weights": str(settings.file()), "seed": settings.seed, "pairs": settings.pairs}
        write_json(options.json, {**how, "sets": {scores.name: scores.values for scores in scored}})
        say(f"numbers: {options.json}")
