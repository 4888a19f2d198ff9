"""``lorat-eval check-zip``: what a server would make of a submission zip, whoever wrote it."""

from dataclasses import dataclass
from pathlib import Path

import click

from lorat.evaluate.submit.check import Judgement, judge_zip
from lorat.evaluate.submit.servers import SERVERS, ServerName
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.errors import UserError, counted
from lorat.shards.base.options import option


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipCheck:
    """What a zip is compared with."""

    server: ServerName | None = option(None, help="Whose rules hold.  [default: told from the names inside]")
    raw: Path | None = option(None, kind="folder", help="Folder of all raw trees; its frames and boxes are compared.")
    root: tuple[str, ...] = option((), metavar="NAME=DIR", help="Where that one data set's tree is.")


@click.command("check-zip", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@options_of(ZipCheck, "check")
def check_zip_command(file: Path, check: ZipCheck) -> None:
    """Judge a submission zip, whoever wrote it, before a server does.

    The servers of GOT-10k and TrackingNet say nothing about a zip that they cannot read: there is no score, or a wrong
    one. FILE is not unpacked to disk. With --raw or --root rows are counted against frames, and first boxes compared.

    \b
    lorat-eval check-zip GOT10k-test.zip
    lorat-eval check-zip results.zip --server trackingnet --root trackingnet=/data/TrackingNet

    Exit status 0: fit to submit. 1: problems were found. 2: no zip, or another mistake on the command line.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    judgement = _judge(file, check)
    say(f"{file}: {judgement.summary}")
    for severity, line in judgement.lines():
        say(f"{severity}: {line}")
    if judgement.unchecked:
        remedy = f"with the tree they are: --root {judgement.server.name}=DIR"
        say(f"not checked: the rows of {counted(judgement.unchecked, 'sequence')} against their frames; {remedy}")
    errors = len(judgement.errors)
    say(f"{counted(errors, 'error')}, {counted(len(judgement.findings) - errors, 'warning')}")
    say(f"Verdict: {judgement.verdict()}.")
    click.get_current_context().exit(1 if errors else 0)


def _judge(file: Path, check: ZipCheck) -> Judgement:
    trees = TreeOptions(raw=check.raw, root=check.root)
    if odd := trees.roots.keys() - SERVERS.keys():
        raise UserError(f"--root {min(odd)}: no server's data set; give got10k or trackingnet")
    if not file.is_file():
        raise UserError(f"{file}: no such file; give the path of a zip")
    try:
        opened = file.open("rb")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its rights") from None
    with opened:
        if not trees.named:
            return judge_zip(opened, str(file), check.server)
        server = check.server or judge_zip(opened, str(file)).server.name
        if check.raw is None and server not in trees.roots:
            other = min(trees.roots)
            remedy = f"give --root {server}=DIR, or --server {other} if that is what it is"
            raise UserError(f"{file}: is for {server}, so --root {other} is of no use; {remedy}")
        dataset = DATASETS[server]
        clips = read_clips(dataset, "test", trees.find(dataset, "test"))
        return judge_zip(opened, str(file), server, clips=clips)
