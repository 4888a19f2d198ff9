"""Commands of shards in a store that falls silent end: at the store's limit, with Ctrl-C, or with SIGTERM."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lorat.shards.base.storage import atomic_file, locate
from tests.train.conftest import write_got10k


@pytest.fixture
def copied(own_s3, tiny_shards):
    """The tiny shards in a store of its own."""
    for path in tiny_shards.glob("*/*"):
        with atomic_file(locate(own_s3.url) / "shards" / path.relative_to(tiny_shards).as_posix()) as copy:
            copy.write(path.read_bytes())
    yield own_s3
    own_s3.process.send_signal(signal.SIGCONT)


# The store is stopped once all is planned.
PAUSE = """
import importlib, os, signal, sys
from lorat.prep.cli import main
module, name = sys.argv.pop(1).split(":")
module, stop = importlib.import_module(module), [os.kill]
work = getattr(module, name)
def pauses(*arguments):
    for kill in stop:
        kill(int(os.environ["STORE"]), signal.SIGSTOP)
    stop.clear()
    return work(*arguments)
setattr(module, name, pauses)
main()
"""


def until_silent(store, pause: str, *arguments: str, number: int = 0) -> tuple[int, str, float]:
    """Run a command whose store falls silent, and signal it if there is a number once it has told what it waits for;
    return its status, what it said, and the seconds since then.
    """
    environment = {**os.environ, "LORAT_PATIENCE": "1", "STORE": str(store.process.pid)}
    limit = f"--store-timeout={300 if number else 3}"
    command = [sys.executable, "-c", PAUSE, pause, *arguments, limit, "--workers=2"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = ""
        while "waiting for s3://" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        begin = time.monotonic()
        if number:
            process.send_signal(number)
        said += process.communicate(timeout=100)[1]
    assert "Traceback" not in said, said
    return process.returncode, said, time.monotonic() - begin


@pytest.mark.parametrize(("number", "status"), [(0, 2), (signal.SIGINT, 130)], ids=["limit", "Ctrl-C"])
def test_verify_ends_where_its_store_falls_silent(copied, number, status):
    verify = "lorat.prep.cli.shards:_verify", "verify", f"{copied.url}/shards"
    code, said, seconds = until_silent(copied, *verify, number=number)
    assert code == status and seconds < 30, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("Error: stopped") if number else "no answer within 3 s; --store-timeout" in last


@pytest.mark.parametrize(("number", "status"), [(0, 2), (signal.SIGTERM, 143)], ids=["limit", "SIGTERM"])
def test_a_build_into_a_store_that_falls_silent_ends(copied, tmp_path, number, status):
    write_got10k(tmp_path / "GOT-10k/val", {"GOT-10k_Val_000001": 6})
    trees = f"--raw={tmp_path}", "--datasets=got10k-val", "--pairs=8"
    build = "lorat.prep.cli.build:run_plan", "build", f"--shards={copied.url}/new", *trees
    code, said, seconds = until_silent(copied, *build, number=number)
    assert code == status and seconds < 30, said
    last = said.strip().splitlines()[-1]
    kept = "Error: stopped; finished shards are kept, the same command goes on"
    assert last == kept if number else "no answer within 3 s; --store-timeout" in last
