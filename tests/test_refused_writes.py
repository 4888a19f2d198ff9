"""Every command that writes, where nothing can be written: the project's line, status 2, and nothing left behind.

The disks are real: a bind mount made read-only, a file system in memory that is full, one with room for two pages,
and a folder without permission for a root that gave up its rights. All commands run in one process in a mount
namespace. Where not one byte goes the weights are damaged, so a command that loaded them first would say that instead.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from lorat.configs.schema import RecipeConfig
from lorat.evaluate.cli import main as evaluate
from lorat.train.network.trained import save_weights
from lorat.train.network.variants import build_network
from tests.conftest import ROOT
from tests.evaluate.conftest import TINY, write_frames, write_got10k
from tests.train.conftest import command_line

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
DISKS = """
set -e
mount --bind read-only read-only
mount -o remount,bind,ro read-only
for disk in full tight; do
    mount -t tmpfs -o size=4m tmpfs /mnt
    cp -r $disk/. /mnt
    mount --move /mnt $disk
done
exec setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search "$@"
"""
REFUSALS = {
    "read-only": ("Read-only file system", "writable, or name another folder"),
    "full": ("No space left on device", "make room on the disk of"),
    "closed": ("Permission denied", "writable, or name another folder"),
}
ROOM = 2 * 4096
RECIPE = RecipeConfig.model_validate(
    {
        "name": "tiny",
        "data": {"datasets": {"toy-train": 2, "toy-val": 1}, "workers": 0},
        "train": {"batch_size": 8, "pairs_per_epoch": 24, "epochs": 1, "warmup_epochs": 0, "dtype": "float32"},
    }
)
BOX = "--box=20,18,22,17"
WEIGHTS, RAW = "--weights=model.safetensors", "--raw={at}/raw"
RESULTS = "{at}/evaluated/results/got10k-val"
SCORED = (f"--results={RESULTS}", "--dataset=got10k-val", RAW)
# Relative names lie in the folder that refuses, where each command is called; {at} is the one beside it, with inputs.
COMMANDS = {
    "toyworld": ("lorat-prep", "toyworld", "raw", "--workers=1"),
    "build": ("lorat-prep", "build", "--datasets=got10k-val", RAW, "--pairs=8", "--workers=1"),
    "build-merge": ("lorat-prep", "build", "--datasets=got10k-val", RAW, "--pairs=8", "--merge"),
    "check": ("lorat-prep", "check", "--datasets=got10k-val", RAW, "--workers=1"),
    "verify": ("lorat-prep", "verify", "{shards}", "--json=verify.json", "--workers=1"),
    "stats": ("lorat-prep", "stats", "{shards}", "--json=stats.json"),
    "inspect": ("lorat-prep", "inspect", "{shards}"),
    "inspect-key": ("lorat-prep", "inspect", "{shards}", "--key=toy-val-000000000", "--out=new/key.png"),
    "train": ("lorat-train", "{training}", WEIGHTS),
    "train-cache": ("lorat-train", "{training}", WEIGHTS, "--run={at}/unused", "--shard-cache=cache"),
    "eval": ("lorat-eval", WEIGHTS, "--datasets=got10k-val", RAW, "--device=cpu"),
    "eval-csv": ("lorat-eval", WEIGHTS, "--datasets=got10k-val", RAW, "--out={at}/unused", "--csv=scores.csv"),
    "eval-zip": ("lorat-eval", WEIGHTS, "--datasets=got10k-val", RAW, "--submit-zip=got10k", "--out=out"),
    "score": ("lorat-eval", "score", *SCORED, "--out=scores"),
    "score-csv": ("lorat-eval", "score", *SCORED, "--csv=scores.csv"),
    "compare": ("lorat-eval", "compare", f"A={RESULTS}", "--datasets=got10k-val", RAW, "--csv=new/scores.csv"),
    "report": ("lorat-eval", "report", "--out={at}/evaluated", RAW, "--html=page.html"),
    "report-csv": ("lorat-eval", "report", "--out={at}/evaluated", RAW, "--html={at}/page.html", "--csv=scores.csv"),
    "report-alone": ("lorat-eval", "report", f"--results=A={RESULTS}", "--datasets=got10k-val", RAW),
    "export-results": ("lorat-eval", "export-results", "--layout=otb", "--results={at}/evaluated", RAW),
    "export-zip": ("lorat-eval", "export-results", "--submit-zip=got10k", f"--results={RESULTS}", RAW),
    "merged": ("lorat-eval", "export-weights", "--merged", WEIGHTS),
    "merged-pth": ("lorat-eval", "export-weights", "--merged", WEIGHTS, "--out=new/merged.pth"),
    "published": ("lorat-eval", "export-weights", "--published", WEIGHTS),
    "onnx": ("lorat-eval", "export-weights", "--onnx", WEIGHTS),
    "torch-export": ("lorat-eval", "export-weights", "--torch-export", WEIGHTS),
    "video": ("lorat-eval", "video", "frames", BOX, WEIGHTS),
    "video-csv": ("lorat-eval", "video", "frames", BOX, WEIGHTS, "--out={at}/x.mp4", "--csv=boxes.csv"),
    "first-frame": ("lorat-eval", "video", "frames", "--first-frame=first.png"),
    "vot": ("lorat-eval", "vot", "vots2023", "--workspace=new/workspace", WEIGHTS),
}
# Of these the file, or one of them, is larger than the two pages that there is room for.
LARGE = ["toyworld", "build", "inspect", "train", "eval", "report", "plots", "video", "first-frame"]
LARGE += ["fault", "merged", "merged-pth", "published", "onnx", "torch-export", "train-cache"]
MORE = {
    "build": (*COMMANDS["build"], "--force"),
    "plots": ("lorat-eval", "report", f"--results=A={RESULTS}", "--datasets=got10k-val", RAW, "--html=small/page.html"),
    "fault": ("lorat-train", "{training}", "--weights={at}/infinite.safetensors"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A raw tree, an evaluation of it, and a folder for each disk with frames and weights in it."""
    at = tmp_path_factory.mktemp("refused")
    torch.manual_seed(0)
    network = build_network(TINY)
    save_weights(at / "model.safetensors", network, TINY)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    save_weights(at / "infinite.safetensors", network, TINY)
    (at / "damaged.safetensors").write_bytes(b"no weights")
    write_got10k(at / "raw", "val", (5, 6))
    write_got10k(at / "raw", "test", (5,))
    for disk in (*REFUSALS, "tight"):
        write_frames(at / disk / "frames", 6, 0)
        given = "model" if disk == "tight" else "damaged"
        shutil.copy(at / f"{given}.safetensors", at / disk / "model.safetensors")
    tracked = [f"--weights={at}/model.safetensors", "--datasets=got10k-val", f"--raw={at}/raw", f"--out={at}/evaluated"]
    result = CliRunner().invoke(evaluate, [*tracked, "--no-video", "--device=cpu"])
    assert result.exit_code == 0, result.output
    for folder in (at / "closed", at / "closed/frames"):
        folder.chmod(0o555)
    return at


@pytest.fixture(scope="module")
def said(inputs, tiny_shards) -> dict[str, dict[str, Any]]:
    """What every command said, by ``<disk>/<command>``."""
    if subprocess.run([*NAMESPACE, "setpriv", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel gives no namespaces here")
    training = command_line(inputs, TINY, RECIPE, tiny_shards, "--no-eval")
    jobs = {f"{disk}/{name}": (disk, command) for disk in REFUSALS for name, command in COMMANDS.items()}
    jobs |= {f"tight/{name}": ("tight", (COMMANDS | MORE)[name]) for name in LARGE}

    def job(disk: str, command: tuple[str, ...]) -> list[str]:
        words = [word for each in command for word in (training if each == "{training}" else [each])]
        return [str(inputs / disk), *(word.format(at=inputs, shards=tiny_shards) for word in words)]

    order = {
        "fill": {str(inputs / "full"): 0, str(inputs / "tight"): ROOM},
        "jobs": {name: job(*each) for name, each in jobs.items()},
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [*NAMESPACE, "sh", "-c", DISKS, "sh", sys.executable, "-m", "tests.commands_in_turn"]
    streams = {"input": json.dumps(order), "capture_output": True, "text": True}
    done = subprocess.run(command, check=False, cwd=inputs, env=environment, timeout=500, **streams)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def one_line(answer: dict[str, Any], *parts: str) -> str:
    """It ended with status 2, one line that is an error, with these parts, and nothing of its own left."""
    assert answer["traceback"] == "" and answer["status"] == 2, answer
    last = answer["errors"].strip().splitlines()[-1]
    assert answer["errors"].count("Error: ") == 1 and last.startswith("Error: ") and "cannot be written (" in last
    assert all(part in last for part in parts), last
    return last


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("disk", REFUSALS)
def test_a_command_that_cannot_write_says_so_before_its_work(said, inputs, disk, command):
    answer = said[f"{disk}/{command}"]
    one_line(answer, *REFUSALS[disk])
    assert answer["left"] == [] and answer["said"] == ""


@pytest.mark.parametrize("command", LARGE)
def test_a_command_whose_disk_fills_up_says_so_and_leaves_no_half_file(said, inputs, command):
    answer = said[f"tight/{command}"]
    one_line(answer, *REFUSALS["full"])
    assert not [path for path in answer["left"] if ".tmp" in path or Path(path).name.startswith(".")]
