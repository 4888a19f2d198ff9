"""What the report page is made of: an evaluation's results, and other trackers' beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.measure.scores import DatasetScores, dataset_scores
from lorat.evaluate.report.outcome import Runs, Summary
from lorat.evaluate.report.page import PageInput, Rival
from lorat.evaluate.report.strips import worst_strips
from lorat.evaluate.track.store import machines_of, result_folder
from lorat.prep.trees.base.clip import Clip

__all__ = ["PAGE", "compare", "page_input"]

PAGE = "report.html"
"""The page's name in an evaluation's folder."""

_SHOWN = 5  # failed sequences that one line names
_RESIZES = {"published": "not antialiased, as published", "shards": "antialiased, as in shards"}


def page_input(
    summary: Summary,
    out: Path,
    remarks: Sequence[str],
    rivals: Sequence[Rival] = (),
    worst: int = 5,
) -> PageInput:
    """Collect what the page of an evaluation shows; frames of the worst sequences are read.

    Args:
        summary: the evaluation.
        out: its folder.
        remarks: lines for the reader.
        rivals: other trackers' scores, from `compare`.
        worst: sequences of each test set that are shown as pictures.
    """
    outcome = summary.outcome
    by_name = {item.name: item for item in outcome.sets}
    strips = {
        each.name: worst_strips(
            outcome.done(by_name[each.name]),
            summary.results[each.name][0],
            each.tracker,
            worst,
        )
        for each in summary.scored
    }
    return PageInput(
        label=f"LoRAT {outcome.identity.variant}",
        variant=outcome.identity.variant,
        about=_about(summary, out),
        scored=summary.scored,
        strips=strips,
        rivals=rivals,
        remarks=[*remarks, *_failures(outcome.failed)],
    )


def _failures(failed: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Say which sequences have no result and why; many with one reason share a line."""
    lines = []
    for name, reasons in failed.items():
        by_reason: dict[str, list[str]] = {}
        for sequence, reason in reasons.items():
            by_reason.setdefault(reason, []).append(sequence)
        for reason, sequences in by_reason.items():
            named = ", ".join(sequences[:_SHOWN])
            if len(sequences) > _SHOWN:
                named = f"{len(sequences)} sequences ({named}, …)"
            lines.append(f"failed: {name} {named}: {reason}")
    return lines


def compare(
    label: str,
    ours: DatasetScores,
    clips: Sequence[Clip],
    our_runs: Runs,
    their_runs: Runs,
    convention: ConventionName,
) -> tuple[DatasetScores | None, list[str]]:
    """Score another tracker on the sequences that it has results of.

    Args:
        label: of the other tracker.
        ours: our scores of the test set.
        clips: of the test set that we have results of.
        our_runs: our results.
        their_runs: the other's.
        convention: of the scores.

    Returns:
        The scores, and lines that say over which sequences, with ours over the same, where these
        are not all; None where it has no result of any.
    """
    shared = [clip for clip in clips if all(clip.name in run for run in their_runs)]
    if not shared:
        return None, []
    theirs = dataset_scores(shared, their_runs, convention)
    if theirs is None or len(theirs.sequences) == len(ours.sequences):
        return theirs, []
    same = dataset_scores(shared, our_runs, convention)
    assert same is not None, "these sequences have ground truth"
    name = f"{theirs.dataset}-{theirs.split}"
    return theirs, [
        f"{name}: {label} has results of {len(theirs.sequences)} of {len(ours.sequences)} "
        f"sequences; over these its AUC is {100 * theirs.auc:.1f} and ours {100 * same.auc:.1f}"
    ]


def _about(summary: Summary, out: Path) -> dict[str, str]:
    """Return the rows of the page's head."""
    identity = summary.outcome.identity
    about = {
        "variant": identity.variant,
        "weights (SHA-256)": identity.weights[:16],
        "number type": identity.dtype,
        "crops": _RESIZES[identity.resize],
    }
    if newest := _newest(summary, out):
        about["tracked"] = newest
    if machines := machines_of(out):
        about["speed measured on"] = "; ".join(machines)
        about["what speed is"] = (
            "a batch's crops, network and boxes, divided by its sequences; images decode beside it"
        )
    return about


def _newest(summary: Summary, out: Path) -> str:
    """Return when the newest result was written; the clock of now would change the page."""
    times = [
        path.stat().st_mtime
        for item in summary.outcome.sets
        for path in result_folder(out, item.name).glob("*.txt")
    ]
    if not times:
        return ""
    return datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d %H:%M UTC")
