"""A training ends in a result: test sets tracked with its weights, by all of its processes.

GOT-10k val is tracked every ``train.evaluate_epochs`` epochs, every test set whose tree is there at
the end. A checkpoint's weights file is what is tracked with, so that the network in training is
not touched, and ``lorat-eval --run`` goes on from the same results. Ranks share the sequences;
results are files of the run folder, which rank 0 scores.

Promise: the weights of a run do not depend on whether it is evaluated. What fails (a damaged
sequence, a test set that cannot be read) is reported and leaves the training alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lorat.evaluate.track.settings import BatchSettings, default_out
from lorat.evaluate.track.store import METRICS, forget_others
from lorat.evaluate.track.testsets import TestSet, choose_test_sets, default_test_sets
from lorat.prep.commandline import options_of
from lorat.prep.trees.registry import parse_name
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.console import OUT
from lorat.shards.base.errors import UserError
from lorat.train.logs.result import Result, note_result

if TYPE_CHECKING:
    from lorat.evaluate.track.ranks import Ranks
    from lorat.evaluate.track.session import Evaluation, Progress
    from lorat.train.distributed.world import World

__all__ = ["BETWEEN", "Evaluator", "Trees", "evaluation_options", "find_trees"]

BETWEEN = "got10k-val"
"""The test set that is tracked while the training goes on."""

_MEASURES = (f"{BETWEEN}/ao", f"{BETWEEN}/auc")
"""What weights are compared by: the first that there is."""
_LOG = logging.getLogger("lorat")
Value = TypeVar("Value")


def evaluation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --raw, --root, --tree and --no-eval, which `find_trees` reads."""
    command = click.option(
        "--no-eval",
        is_flag=True,
        help="Track no test sets; else those whose tree is there, in between and at the end.",
    )(command)
    return options_of(TreeOptions, "trees")(command)


@dataclass(frozen=True, slots=True)
class Trees:
    """Test sets whose trees are there."""

    names: tuple[str, ...]
    """``<dataset>-<split>``."""
    places: TreeOptions

    def read(self, name: str) -> TestSet:
        """Read the tree of one of them.

        Raises:
            UserError: if it is damaged.
        """
        return choose_test_sets([name], [], self.places)[0]


def find_trees(trees: TreeOptions, no_eval: bool) -> Trees | None:
    """Look for test sets, as lorat-eval does; None where none are wanted or there.

    Raises:
        UserError: if a tree or the folder of trees that the user named is missing.
    """
    if no_eval:
        return None
    try:
        names = default_test_sets(trees)
    except UserError as error:
        if trees.named:
            raise
        _LOG.warning("the run ends without a result: %s, or --no-eval", error.message)
        return None
    for name in names:
        dataset, split = parse_name(name)
        trees.find(dataset, split)
    return Trees(tuple(names), trees)


class Evaluator:
    """Tracks test sets with the weights of a run, on all ranks at once; every rank calls alike."""

    def __init__(self, trees: Trees, settings: BatchSettings, epochs: int, world: World) -> None:
        self._trees, self._settings, self._world = trees, settings, world
        self._epochs = epochs
        self._last: tuple[Evaluation, Path] | None = None
        self.failed = False
        """Whether something could not be tracked or scored."""

    def __call__(self, weights: Path, epoch: int, show: Callable[[str], None]) -> dict[str, float]:
        """Track every test set after the last epoch, GOT-10k val before, unless that is done.

        Args:
            weights: of the checkpoint of `epoch` finished epochs.
            epoch: finished ones.
            show: shows how far this is; may raise, to end it early.

        Returns:
            ``got10k-val/ao`` → score and so on, on rank 0; empty where there is nothing new.
        """
        last = epoch == self._epochs
        names = self._trees.names if last else tuple({BETWEEN} & {*self._trees.names})
        if not names:
            return {}

        def progress(so_far: Progress) -> None:
            share = f"{so_far.frames:,} of {so_far.of_frames:,} frames"
            show(f"epoch {epoch}: tracking {', '.join(names)}  {share}")

        outcome = self._track(names, weights, progress, again=last)
        if outcome is None:
            return {}
        self._last = outcome, default_out(weights)
        return self._guarded(lambda: self._scores(outcome, weights, epoch)) or {}

    def _scores(self, outcome: Evaluation, weights: Path, epoch: int) -> dict[str, float]:
        """Write the scores and note which weights are the best."""
        from lorat.evaluate.report.outcome import summarise, write_metrics
        from lorat.evaluate.report.tables import summary

        summed = summarise(outcome, default_out(weights))
        write_metrics(summed, default_out(weights))
        scored, scores = summed.scored, summary(summed.scored)
        measure = next((m for m in _MEASURES if m in scores), None)
        if measure is not None:
            sequences = next(len(s.tracker.sequences) for s in scored if s.name == BETWEEN)
            note_result(weights, Result(measure, scores[measure], sequences, epoch))
        return scores

    def publish(self) -> None:
        """Print and draw the scores after the last epoch, on rank 0."""
        if self._last is None:
            return
        from lorat.evaluate.report.publish import Wishes, publish

        outcome, out = self._last
        self._guarded(lambda: publish(outcome, out, Wishes(no_video=True), OUT))

    def _guarded(self, work: Callable[[], Value]) -> Value | None:
        """Do what only rank 0 does; a user's error in it is reported and remembered."""
        try:
            return work()
        except UserError as error:
            self._report(error.message)
            return None

    def _report(self, message: str) -> None:
        self.failed = True
        if self._world.speaks:
            _LOG.error("evaluation: %s", message)

    def _track(
        self,
        names: Sequence[str],
        weights: Path,
        progress: Callable[[Progress], None],
        *,
        again: bool,
    ) -> Evaluation | None:
        """Track together with the other ranks.

        Args:
            names: of test sets.
            weights: of the tracker.
            progress: called now and then.
            again: score what is tracked and scored already, too.

        Returns:
            What came out, on rank 0; None on the others, or where that failed.
        """
        from lorat.evaluate.track.ranks import share_ranks

        out, world = default_out(weights), self._world
        with share_ranks(world.rank, world.size, world.store) as ranks:
            if world.speaks:
                self._guarded(lambda: forget_others(out, weights))
            # Rank 0 decides: another node may see the folder later.
            if not ranks.first(again or not (out / METRICS).is_file()):
                return None
            sets, unread = self._read(names)
            for message in unread:
                self._report(message)
            outcome = self._guarded(lambda: self._evaluate(sets, out, weights, progress, ranks))
        if outcome is None:
            return None
        for name, sequences in outcome.failed.items():
            for sequence, why in sequences.items():
                self._report(f"{name} {sequence}: {why}")
        return outcome if world.speaks else None

    def _read(self, names: Sequence[str]) -> tuple[list[TestSet], list[str]]:
        sets, errors = [], []
        for name in names:
            try:
                sets.append(self._trees.read(name))
            except UserError as error:
                errors.append(error.message)
        return sets, errors

    def _evaluate(
        self,
        sets: Sequence[TestSet],
        out: Path,
        weights: Path,
        progress: Callable[[Progress], None],
        ranks: Ranks,
    ) -> Evaluation:
        import torch

        from lorat.evaluate.track.session import evaluate

        device = self._world.device
        settings = replace(self._settings, weights=weights, device=str(device))
        try:
            with torch.random.fork_rng(devices=()):
                return evaluate(sets, out, settings, progress=progress, ranks=ranks)
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
