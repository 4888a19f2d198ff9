"""Runs commands in one process, each in the folder it is given: jobs from stdin, what they said to stdout, as JSON."""

import errno
import json
import os
import sys
import traceback
from pathlib import Path

from click.testing import CliRunner

from lorat.evaluate.cli import main as evaluate
from lorat.prep.cli import main as prep
from lorat.train.cli import main as train

COMMANDS = {"lorat-prep": prep, "lorat-train": train, "lorat-eval": evaluate}


def files_in(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*"))


def answer(folder: str, command: str, *arguments: str) -> dict[str, object]:
    os.chdir(folder)
    before = files_in(folder)
    result = CliRunner().invoke(COMMANDS[command], arguments)
    left = sorted({*files_in(folder)} - {*before})
    for path in map(Path, reversed(left)):  # the next command finds the disk as this one did
        path.rmdir() if path.is_dir() else path.unlink()
    unexpected = result.exc_info and not isinstance(result.exception, SystemExit)
    return {
        "status": result.exit_code,
        "said": result.stdout,
        "errors": result.stderr,
        "traceback": "".join(traceback.format_exception(*result.exc_info)) if unexpected else "",
        "left": left,
    }


def fill(folder: str, free: int) -> None:
    """Write into a file system until not more than so many bytes go."""
    with Path(folder, "other").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(file.tell() - free)


def main() -> None:
    order = json.load(sys.stdin)
    for folder, free in order["fill"].items():
        fill(folder, free)
    said = {name: answer(folder, *words) for name, (folder, *words) in order["jobs"].items()}
    print(json.dumps(said), file=sys.__stdout__)


if __name__ == "__main__":
    main()
