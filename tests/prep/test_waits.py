"""Commands of shards in a store that falls silent end: at the store's limit, or with Ctrl-C."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lorat.shards.base.storage import atomic_file, locate


@pytest.fixture
def copied(own_s3, tiny_shards):
    """The tiny shards in a store of its own."""
    for path in tiny_shards.glob("*/*"):
        with atomic_file(locate(own_s3.url) / "shards" / path.relative_to(tiny_shards).as_posix()) as copy:
            copy.write(path.read_bytes())
    yield own_s3
    own_s3.process.send_signal(signal.SIGCONT)


PAUSE = """
import os, signal
from lorat.shards.base import storage
from lorat.shards.verify import verify
from lorat.prep.cli import main, shards
def pauses(*arguments, plan=shards.plan_audit):
    planned = plan(*arguments)
    if planned[0].name == "toy-val":
        os.kill(int(os.environ["STORE"]), signal.SIGSTOP)  # the store, once all is planned
    return planned
shards.plan_audit = pauses
main()
"""


@pytest.mark.parametrize("asked", [False, True], ids=["limit", "Ctrl-C"])
def test_verify_ends_where_its_store_falls_silent(copied, asked):
    limits = {"LORAT_PATIENCE": "1", "LORAT_STORE_TIMEOUT": "300" if asked else "4"}
    environment = {**os.environ, **limits, "STORE": str(copied.process.pid)}
    command = [sys.executable, "-c", PAUSE, "verify", f"{copied.url}/shards", "--workers=2"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = ""
        while "waiting for s3://" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        begin = time.monotonic()
        if asked:
            process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=100)[1]
    assert process.returncode == (130 if asked else 2), said
    assert time.monotonic() - begin < 30 and "Traceback" not in said
    assert said.count("waiting for s3://") == 1
    last = said.strip().splitlines()[-1]
    assert last == "Error: stopped before the end" if asked else "no answer within 4 s" in last
