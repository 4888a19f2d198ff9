"""``lorat-eval vot``: a VOT challenge, from nothing to a pack; ``lorat-eval vot-tracker``, which the toolkit starts."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from lorat.evaluate.segment.settings import SegmentSettings
from lorat.evaluate.track.settings import TrackerSettings
from lorat.evaluate.vot.dialogue import Dialogue
from lorat.evaluate.vot.stacks import find_stack
from lorat.evaluate.vot.toolkit import Toolkit
from lorat.evaluate.vot.workspace import Workspace
from lorat.prep.commandline import Command, options_of
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.disk import check_can_write
from lorat.shards.base.options import option


@dataclass(frozen=True, kw_only=True, slots=True)
class VotOptions:
    """Where a stack is evaluated, and with which toolkit."""

    workspace: Path = option(kind="folder", help="The toolkit's workspace; made where it is not there.")
    sequences: Path | None = option(
        None, kind="folder", exists=True, help="The stack's sequences.  [default: the toolkit fetches them]"
    )
    name: str = option("LoRAT", help="The tracker's name in results and pack.")
    toolkit: str | None = option(
        None,
        metavar="COMMAND",
        help="The toolkit's program, best in its own environment.  [default: $LORAT_VOT_TOOLKIT, or vot]",
    )
    timeout: int = option(600, least=1, help="Seconds without an answer after which the tracker counts as hung.")


_USUAL: dict[str, tuple[Any, ...]] = {"resize": ("published",), "range16": (None,), "redetect": (None, False)}
"""Option that changes boxes → what it is where results do not name it."""


@click.command("vot", cls=Command)
@click.argument("stack")
@options_of(VotOptions, "options")
@options_of(TrackerSettings, "settings", "Weights and tracker")
@options_of(SegmentSettings, "segment", "Masks")
def vot_command(stack: str, options: VotOptions, settings: TrackerSettings, segment: SegmentSettings) -> None:
    """Evaluate a tracker on STACK with VOT's toolkit, and pack the results.

    Prepares a workspace, lets the toolkit track every sequence, pack the results and, where ground
    truth is public, score them. What is tracked already is not tracked again. STACK is one of the
    toolkit's, or a YAML file like its own.

    \b
    lorat-eval vot vots2024/main --workspace vots2024 --weights model.safetensors
    lorat-eval vot vot2022/shorttermbox --workspace stb --run runs/B-224-standard --sequences /data/stb
    lorat-eval vot vots2024/main --workspace vots2024-masks --weights model.safetensors \\
        --segment sam-vit-h --segment-weights sam_vit_h_4b8939.pth

    Exit status: 0 done; 1 a sequence failed, and the reason; 2 wrong input; 130 after Ctrl-C, and the
    same command goes on.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    workspace = Workspace(options.workspace.absolute(), find_stack(stack), options.name)
    weights = settings.files()
    segment.check()
    check_can_write(workspace.folder)
    toolkit = Toolkit.find(options.toolkit or os.environ.get("LORAT_VOT_TOOLKIT") or "vot")
    toolkit.check(workspace.stack)
    workspace.prepare(options.sequences)
    dtype = workspace.begun or "auto" if settings.dtype == "auto" else settings.dtype
    settings = _settled(replace(settings, run=None, weights=weights, dtype=dtype), workspace.weights)
    segment = segment.settled(settings.device)
    how = {name: str(getattr(settings, name)) for name, usual in _USUAL.items() if getattr(settings, name) not in usual}
    workspace.claim(settings.dtype, {**how, **segment.identity()}, settings.parts() if settings.graph else ())
    workspace.register([*_tracker_command(settings), *segment.arguments()], options.timeout)
    pack = workspace.evaluate(toolkit)
    if workspace.stack.scored:
        scores, page = workspace.analyse(toolkit)
        say(f"scores: {scores}\nreport: {page}")
    else:
        say(f"scores: {stack} computes none; where its ground truth is hidden, the challenge's server does")
    say(f"pack: {pack}")


def _settled(settings: TrackerSettings, out: Path) -> TrackerSettings:
    """Write weights, merged if they can be, that load without a backbone, or find the graphs of an engine that has
    some, and return how to track with them.
    """
    # torch takes seconds to import: help and mistakes need not wait for it.
    if settings.chosen_engine() != "torch":
        from lorat.evaluate.track.predictor import graph_for, pick_type

        network, variant = settings.load_network(dtype=None)
        dtype = pick_type(settings, settings.dtype, network)
        graph, _ = graph_for(settings, network, variant, dtype)
        own, name = (graph.absolute(),), str(dtype).removeprefix("torch.")
        return replace(settings, weights=own, variant=None, backbone=None, force_backbone=False, dtype=name)
    from lorat.train.network.deploy.devices import pick_device, pick_dtype
    from lorat.train.network.reading import read_weights
    from lorat.train.network.trained import export_merged
    from lorat.train.network.variants import empty_network

    device = pick_device(settings.device)
    force = settings.force_backbone
    *before, last = settings.files()
    file = read_weights(last, settings.variant_config(), before=before, force_backbone=force)
    dtype = pick_dtype(settings.dtype, device, empty_network(file.variant, plan=file.plan))
    export_merged(file, out, dtype, backbone=settings.backbone, force_backbone=force)
    name = str(dtype).removeprefix("torch.")
    merged = replace(settings, weights=(out,), variant=None, backbone=None, force_backbone=False)
    return replace(merged, device=str(device), dtype=name)


def _tracker_command(settings: TrackerSettings) -> list[str]:
    """Return the command line of a tracker with the settings that `_settled` returned."""
    options = [f"--{name}={getattr(settings, name)}" for name in ("device", "dtype", "resize")]
    options.append(f"--weights={settings.file()}")
    options += ["--redetect"] if settings.redetect else []
    if settings.range16 is not None:
        low, high = settings.range16
        options.append(f"--range16={low},{high}" if high else "--range16=auto")
    return [sys.executable, "-m", "lorat.evaluate.cli", "vot-tracker", *options]


@click.command("vot-tracker", cls=Command)
@options_of(TrackerSettings, "settings", "Weights and tracker")
@options_of(SegmentSettings, "segment", "Masks")
def vot_tracker_command(settings: TrackerSettings, segment: SegmentSettings) -> None:
    """Track what VOT's toolkit sends on stdin, in TraX.

    For the toolkit's trackers.ini; lorat-eval vot writes that. One process tracks sequence after
    sequence, and all objects of a sequence together.
    """
    start_logging()
    # Before torch, so that the toolkit's limit holds from here on.
    dialogue = Dialogue(masks=segment.segment is not None)
    from lorat.evaluate.track.predictor import Predictor
    from lorat.evaluate.vot.server import serve

    predictor = Predictor.load(settings)
    serve(dialogue, predictor, settings.range16, segment.load(predictor.device))
