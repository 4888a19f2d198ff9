"""A training ends in a result: test sets tracked with its weights, by all of its processes.

GOT-10k val is tracked every ``train.evaluate_epochs`` epochs, every test set whose tree is there at the end, both with
a checkpoint's weights file. Promise: what is trained does not depend on that; what fails is reported and no more.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from lorat.evaluate.track.folder import METRICS, forget_others
from lorat.evaluate.track.ranks import share_ranks
from lorat.evaluate.track.session import Evaluation, Show, evaluate
from lorat.evaluate.track.settings import BatchSettings, default_out
from lorat.evaluate.track.testsets import TestSet, choose_test_sets, default_test_sets
from lorat.prep.trees.registry import parse_name
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.errors import UserError
from lorat.train.distributed.world import World
from lorat.train.logs.result import Result, note_result
from lorat.train.loop import Training
from lorat.train.setup import Request

BETWEEN = "got10k-val"  # the test set that is tracked while the training goes on
_MEASURES = (f"{BETWEEN}/ao", f"{BETWEEN}/auc")  # what weights are compared by: the first that there is
_LOG = logging.getLogger("lorat")


def check_stopping(training: Training, names: Sequence[str]) -> None:
    """Raise a `UserError` where what early stopping looks at will never be found."""
    stopping = training.recipe.train.early_stopping
    if stopping is None or (training.validation if stopping.of_validation else BETWEEN in names):
        return
    lacks = "validation pairs (data.validation)" if stopping.of_validation else f"the tree of {BETWEEN}"
    raise UserError(f"train.early_stopping.metric={stopping.metric}: needs {lacks}; give it, or another metric")


def find_test_sets(trees: TreeOptions, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of test sets that are there, as lorat-eval does, or the `wanted`; a `UserError` if a named one
    is missing.
    """
    try:
        names = default_test_sets(trees) if wanted is None else wanted
    except UserError as error:
        if trees.named:
            raise
        _LOG.warning("the run ends without a result: %s, or --no-eval", error.message)
        return ()
    for name in names:
        trees.find(*parse_name(name))
    return tuple(names)


class Evaluator:
    """Tracks test sets with the weights of a run, on all ranks at once; every rank calls alike."""

    def __init__(self, names: tuple[str, ...], trees: TreeOptions, request: Request, world: World) -> None:
        self._names, self._trees, self._request, self._world = names, trees, request, world
        self._read = dict[str, TestSet]()  # once a training: trees are large, and disks slow
        self._last: tuple[Evaluation, Path] | None = None
        self.failed = False  # whether something could not be tracked or scored

    def __call__(self, weights: Path, epoch: int, show: Callable[[str], None], last: bool) -> dict[str, float]:
        """Track every test set with the weights after the `last` epoch, GOT-10k val before, unless that is done. `show`
        may raise, to end this early. New scores are returned on rank 0: ``got10k-val/ao`` → score, and so on.
        """
        names = self._names if last else tuple({BETWEEN} & {*self._names})

        def progress(done: int, total: int, text: str) -> None:
            show(f"epoch {epoch}: tracking {', '.join(names)}  {done:,} of {total:,} frames")

        outcome = self._track(names, weights, progress, again=last) if names else None
        if outcome is not None and self._world.speaks:
            self._last = outcome, default_out(weights)
            with self._reporting():
                stopping = self._request.recipe.train.early_stopping
                return _score(outcome, weights, epoch, (stopping.metric,) if stopping else _MEASURES)
        return {}

    def publish(self) -> None:
        """Print and draw the scores after the last epoch, on rank 0."""
        if self._last is None:
            return
        from lorat.evaluate.cli.options import OutputOptions
        from lorat.evaluate.cli.publish import publish

        with self._reporting():
            publish(*self._last, OutputOptions(no_video=True))

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self._report(error.message)

    def _report(self, message: str) -> None:
        self.failed = True
        if self._world.speaks:
            _LOG.error("evaluation: %s", message)

    def _track(self, names: Sequence[str], weights: Path, progress: Show, *, again: bool) -> Evaluation | None:
        """Track what can be read with the other ranks; None where that is done, unless `again`, or fails."""
        out, world, start = default_out(weights), self._world, self._request.start
        plan = self._request.recipe.train
        settings = BatchSettings(
            weights=(weights,),
            backbone=start.backbone,
            force_backbone=start.force_backbone,
            device=str(world.device),
            dtype=plan.evaluate_dtype,
            batch=plan.evaluate_batch,
        )
        outcome, sets, threads = None, list[TestSet](), torch.get_num_threads()
        with share_ranks(world.rank, world.size, world.store) as ranks:
            if world.speaks:
                with self._reporting():
                    forget_others(out, weights)
            # Rank 0 decides: another node may see the folder later.
            if not ranks.first(again or not (out / METRICS).is_file()):
                return None
            for name in names:
                with self._reporting():
                    if name not in self._read:
                        (self._read[name],) = choose_test_sets([name], [], self._trees)
                    sets.append(self._read[name])
            try:
                with self._reporting(), torch.random.fork_rng(devices=()):
                    outcome = evaluate(sets, out, settings, progress=progress, ranks=ranks)
            finally:
                torch.set_num_threads(threads)  # they decide the last bits of what is trained
                if world.device.type == "cuda":
                    torch.cuda.empty_cache()
        for name, sequences in outcome.failed.items() if outcome else ():
            for sequence, why in sequences.items():
                self._report(f"{name} {sequence}: {why}")
        return outcome


def _score(outcome: Evaluation, weights: Path, epoch: int, measures: Sequence[str]) -> dict[str, float]:
    """Write the scores and note which weights are the best, by the first of the measures that there is."""
    from lorat.evaluate.cli.publish import summarise
    from lorat.evaluate.report.tables import score_values

    summary = summarise(outcome, default_out(weights))
    summary.write_metrics()
    scored, scores = summary.scored, score_values(summary.scored)
    if (measure := next((m for m in measures if m in scores), None)) is not None:
        sequences = next(len(s.sequences) for (_, s), *_ in scored if s.name == BETWEEN)
        note_result(weights, Result(measure=measure, score=scores[measure], sequences=sequences, epoch=epoch))
    return scores
