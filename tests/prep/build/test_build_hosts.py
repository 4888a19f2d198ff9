"""Parts of a build on machines that share a cache and a folder, and cannot be told apart by name or process number."""

import subprocess
import sys
from pathlib import Path

import pytest

from lorat.prep.annotations.clips import ClipIndex
from lorat.shards.manifest import load_manifest

# A machine of its own, as far as names, mounts and process numbers go.
MACHINE = ["unshare", "--user", "--map-root-user", "--uts", "--mount", "--pid", "--fork", "--mount-proc"]
# Every file waits half a second between its last byte and its name, so that both machines write the same ones at once.
PROGRAM = """
import os, socket, sys, time
from pathlib import Path
from lorat.prep.cli import main

print(socket.gethostname(), os.getpid(), flush=True)
flush = os.fsync
os.fsync = lambda number: (time.sleep(0.5), flush(number))
sys.stdin.readline()
main(sys.argv[1:])
"""


def on_a_machine(*arguments: object) -> subprocess.Popen[str]:
    start = ["sh", "-c", 'hostname twin && exec "$@"', "sh", sys.executable, "-c", PROGRAM, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*MACHINE, *start], text=True, **pipes)


@pytest.fixture
def machines():
    """Starts twins, and ends those that a failure leaves."""
    if subprocess.run([*MACHINE, "hostname", "twin"], capture_output=True).returncode:
        pytest.skip("the kernel gives no namespaces here")
    started = []
    yield lambda *arguments: started.append(on_a_machine(*arguments)) or started[-1]
    for process in started:
        process.kill()
        process.wait()


def build(machines, *several: tuple[object, ...]) -> None:
    """Run builds at the same moment, each on a machine."""
    processes = [machines("build", *arguments) for arguments in several]
    names = [process.stdout.readline() for process in processes]
    assert names == ["twin 1\n"] * len(processes)
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, output + errors


def test_parts_on_two_hosts_of_one_name_with_one_cache_do_not_hurt_each_other(
    machines, tmp_path, write_tree, monkeypatch
):
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    tree = write_tree(tmp_path / "mine", sequences=3)
    options = ("--datasets=generic", f"--root=generic={tree}", "--workers=1", "--pairs=16", "--shard-pairs=4")
    shards, whole = tmp_path / "shards", tmp_path / "whole"
    build(machines, *((*options, f"--shards={shards}", f"--part={part}/2") for part in (1, 2)))
    (index,) = (tmp_path / "cache/index").iterdir()  # written once, and nothing left beside it
    assert len(ClipIndex(index)) == 3
    build(machines, (*options, f"--shards={shards}", "--merge"))
    build(machines, *((*options, f"--shards={whole}"),) * 2)  # even the same build twice at once
    merged, one = load_manifest(shards / "generic-train"), load_manifest(whole / "generic-train")
    assert merged.to_json() == one.to_json() and merged.rows == 16
    for receipt in merged.shards:
        files: list[Path] = [folder / "generic-train" / receipt.shard for folder in (shards, whole)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not [path for path in tmp_path.rglob("*.tmp")]
