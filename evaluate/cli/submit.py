"""``lorat-eval check-zip``: what a server would make of a submission zip, whoever wrote it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import click

from lorat.evaluate.submit.findings import KINDS, Server, finding_lines
from lorat.evaluate.submit.judge import (
    SERVER_NAMES,
    Expected,
    Judgement,
    judge_zip,
    official_sequences,
)
from lorat.prep.commandline import Command
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xyxy_to_xywh
from lorat.shards.pixels.jpeg import ImageError

__all__ = ["check_zip_command"]

_LOG = logging.getLogger("lorat")
_UNFIT = 1


@click.command("check-zip", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--server",
    type=click.Choice(tuple(SERVER_NAMES)),
    help="Whose rules hold.  [default: told from the names inside]",
)
@click.option(
    "--raw",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of all raw trees; rows are compared with its frames, first rows with its boxes.",
)
@click.option(
    "--root", "roots", multiple=True, metavar="NAME=DIR", help="Where that one data set's tree is."
)
def check_zip_command(
    file: Path, server: str | None, raw: Path | None, roots: tuple[str, ...]
) -> None:
    """Judge a submission zip, whoever wrote it, before a server does.

    The servers of GOT-10k and TrackingNet say nothing about a zip that they cannot read: there is
    no score, or a wrong one. FILE is not unpacked to disk. With --raw or --root the rows are
    counted against the frames, and the first boxes compared.

    \b
    lorat-eval check-zip GOT10k-test.zip
    lorat-eval check-zip results.zip --server trackingnet --root trackingnet=/data/TrackingNet

    Exit status 0: fit to submit. 1: problems were found. 2: no zip, or another mistake on the
    command line.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    judgement = _judge(file, cast("Server | None", server), TreeOptions(raw=raw, root=roots))
    _print(file, judgement)
    if judgement.errors:
        raise SystemExit(_UNFIT)


def _judge(file: Path, server: Server | None, trees: TreeOptions) -> Judgement:
    roots = trees.roots
    if odd := roots.keys() - SERVER_NAMES.keys():
        raise UserError(f"--root {min(odd)}: no server's data set; give got10k or trackingnet")
    if not file.is_file():
        raise UserError(f"{file}: no such file; give the path of a zip")
    try:
        opened = file.open("rb")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its rights") from None
    with opened:
        if not trees.named:
            return judge_zip(opened, str(file), server)
        server = server or judge_zip(opened, str(file)).server
        if trees.raw is None and server not in roots:
            raise UserError(
                f"{file}: is for {server}, so --root {min(roots)} is of no use; give --root "
                f"{server}=DIR, or --server {min(roots)} if that is what it is"
            )
        return judge_zip(opened, str(file), server, _expected(server, trees))


def _expected(server: Server, trees: TreeOptions) -> Expected:
    dataset = DATASETS[server]
    clips = read_clips(dataset, "test", trees.find(dataset, "test"))
    sizes = {clip.name: size for clip in clips if (size := _size(clip))}
    return Expected(
        names=official_sequences(server),
        frames={clip.name: len(clip.frames) for clip in clips},
        first_boxes={
            clip.name: xyxy_to_xywh(clip.tracks[0].boxes[0]) for clip in clips if len(clip.frames)
        },
        frame_sizes=sizes,
    )


def _size(clip: Clip) -> tuple[int, int] | None:
    try:
        return clip.frame_size()
    except ImageError as error:
        _LOG.warning(
            "%s; boxes of %s right of or below the image are not noticed", error, clip.name
        )
        return None


def _print(file: Path, judgement: Judgement) -> None:
    say(
        f"{file}: {SERVER_NAMES[judgement.server]}, {judgement.files:,} files "
        f"{judgement.form}, {judgement.sequences:,} of {judgement.expected:,} sequences"
    )
    for kind, line in finding_lines(judgement.findings):
        level = "error" if KINDS[kind].error else "warning"
        say(f"{level}: {line}")
        say(f"  the server would {KINDS[kind].effect(judgement.server)}")
    if judgement.unchecked:
        say(
            f"not checked: the rows of {judgement.unchecked:,} sequences against their frames; "
            f"with the tree they are: --root {judgement.server}=DIR"
        )
    errors, warnings = len(judgement.errors), len(judgement.warnings)
    say(f"{errors:,} errors, {warnings:,} warnings")
    say(f"Verdict: {judgement.verdict()}.")
