"""SIGTERM and Ctrl-C end a process in the time that is said, also where its main thread is deaf."""

import os
import signal
import subprocess
import sys
import time

import pytest

# The main thread is told of signals, and does nothing about them.
DEAF = """
import os, signal, sys, time
from lorat.shards.base.signals import Heard, hear_signals, obey_in_time
def last(number):
    print("last", number, flush=True)
    time.sleep(float(sys.argv[2]))
heard = Heard("heard")
with hear_signals(heard), obey_in_time(heard, last, float(sys.argv[1])):
    if (child := os.fork()) == 0:
        time.sleep(30)
        os._exit(0)
    print(child, flush=True)
    while True:
        try:
            time.sleep(100)
        except KeyboardInterrupt:
            pass
"""


@pytest.fixture
def deaf(request):
    """A process with so much grace whose last word takes so long, and its child's number."""
    grace, lasts, *more = request.param
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, **dict.fromkeys(more, "1")}
    command = [sys.executable, "-c", DEAF, str(grace), str(lasts)]
    with subprocess.Popen(command, env=environment, **pipes) as process:
        yield process, int(process.stdout.readline())


def ended(process: subprocess.Popen[str], child: int) -> tuple[float, int, str]:
    begin = time.monotonic()
    process.wait(20)
    seconds = time.monotonic() - begin
    os.kill(child, signal.SIGKILL)  # it has the pipes open
    said, errors = process.communicate()
    assert errors.count("heard") == 1, errors
    return seconds, process.returncode, said


@pytest.mark.parametrize("deaf", [(0.5, 0)], indirect=True)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_deaf_process_has_its_last_word_when_its_grace_is_over(deaf, number, status):
    process, child = deaf
    os.kill(child, number)  # none of its parent's business
    time.sleep(0.1)
    process.send_signal(number)
    seconds, code, said = ended(process, child)
    assert (code, said) == (status, f"last {number:d}\n") and 0.4 < seconds < 3


@pytest.mark.parametrize("deaf", [(60, 0)], indirect=True)
def test_sigterm_that_comes_again_ends_the_grace(deaf):
    process, child = deaf
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    seconds, code, said = ended(process, child)
    assert (code, said) == (143, "last 15\n") and seconds < 3


@pytest.mark.parametrize("deaf", [(0.8, 0, "TORCHELASTIC_RUN_ID")], indirect=True)
def test_what_torchrun_passes_on_is_not_taken_for_another_signal(deaf):
    process, child = deaf
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    seconds, code, said = ended(process, child)
    assert (code, said) == (130, "last 2\n") and seconds > 0.5


@pytest.mark.parametrize("deaf", [(60, 0), (0.01, 60)], indirect=True)
def test_a_second_ctrl_c_waits_for_nothing(deaf):
    process, child = deaf
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    seconds, code, _ = ended(process, child)
    assert code == 130 and seconds < 4


COMMAND = """
import time, click
from lorat.prep.commandline import Command
@click.command(cls=Command)
def main():
    try:
        print("begins", flush=True)
        time.sleep(100)
    finally:
        print("tidy", flush=True)
main()
"""


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_sigterm_ends_a_command_as_ctrl_c_does(ranks):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "WORLD_SIZE": ranks}
    with subprocess.Popen([sys.executable, "-c", COMMAND], env=environment, **pipes) as process:
        assert process.stdout.readline() == "begins\n"
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=20)
    assert (process.returncode, said, errors) == (143, "tidy\n", "Error: stopped\n")
