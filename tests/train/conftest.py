import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from lorat.configs.schema import AugmentConfig, BackboneConfig, RecipeConfig, VariantConfig
from lorat.shards.manifest import load_manifest
from lorat.shards.pixels.jpeg import encode
from lorat.train.cli import main
from lorat.train.data.places import CropSpec, Source
from lorat.train.distributed.world import World

ALONE = World(0, 1, torch.device("cpu"))
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="session")
def tiny_variant() -> VariantConfig:
    args = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
    backbone = BackboneConfig(timm="vit_small_patch14_dinov2", pretrained=False, args={**args, "init_values": None})
    return VariantConfig(name="tiny", backbone=backbone, lora=None, template_size=32, search_size=64)


@pytest.fixture(scope="session")
def tiny_recipe() -> RecipeConfig:
    plan = {"batch_size": 8, "pairs_per_epoch": 24, "epochs": 3, "lr": 1e-3, "warmup_epochs": 1}
    plan |= {"checkpoint_epochs": 1, "log_steps": 1, "dtype": "float32"}
    data = {"datasets": {"toy-train": 2, "toy-val": 1}, "workers": 0}
    return RecipeConfig.model_validate({"name": "tiny", "data": data, "train": plan})


@pytest.fixture(scope="session")
def source(tiny_shards: Path) -> Source:
    return Source(
        manifests=tuple(load_manifest(tiny_shards / n) for n in ("toy-train", "toy-val")),
        weights=(2, 1),
        spec=CropSpec(32, 64, 2, 4, 2.0, 4.0),
        augment=AugmentConfig(motion_blur=0.3, rotation=0.3),
        seed=42,
        batch_size=8,
        pairs_per_epoch=24,
        epochs=3,
    )


@pytest.fixture
def files(tmp_path: Path, tiny_variant: VariantConfig, tiny_recipe: RecipeConfig, tiny_shards: Path) -> list[str]:
    """The command line of a small training."""
    return command_line(tmp_path, tiny_variant, tiny_recipe, tiny_shards)


def command_line(folder: Path, variant: VariantConfig, recipe: RecipeConfig, shards: Path, *more: str) -> list[str]:
    """Options of a training, whose variant and recipe are files in `folder`."""
    for name, config in (("variant", variant), ("recipe", recipe)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    files = [f"--{name}={folder / name}.yaml" for name in ("variant", "recipe")]
    return [*files, f"--shards={shards}", "--device=cpu", *more]


def train(*arguments: str, status: int = 0) -> Result:
    """Run ``lorat-train`` in this process."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == status, result.output
    return result


def refused(result: Result, *parts: str) -> None:
    """It ended with one line that says all this."""
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and len(lines) == 1, result.output
    assert all(part in lines[0] for part in parts), lines[0]


def with_train(recipe: RecipeConfig, **changes: Any) -> RecipeConfig:
    """The recipe with other keys of its part ``train``."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})


def two_processes(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``lorat-train`` in two processes of torchrun."""
    command = [*TORCHRUN, "-m", "lorat.train.cli", *arguments]
    return subprocess.run(command, capture_output=True, env=ONE_THREAD, timeout=300, text=True)


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait for something, as long as a busy machine may take."""
    begin = time.monotonic()
    while not happened():
        assert time.monotonic() - begin < 200
        time.sleep(0.002)


def recorded(run: Path) -> int:
    """Steps that the log tells of."""
    path = run / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def log_of(run: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "log.jsonl").read_text().splitlines()]


def weights_of(run: Path | str, epoch: int = 3) -> dict[str, torch.Tensor]:
    return load_file(Path(run, f"checkpoints/epoch_{epoch:04d}/model.safetensors"))


def first_epoch_of(run: Path, copy: Path) -> Path:
    """Return a copy of a run of three epochs as it was after its first."""
    shutil.copytree(run, copy)
    for epoch in (2, 3):
        shutil.rmtree(copy / f"checkpoints/epoch_{epoch:04d}")
    return copy


def write_got10k(split: Path, lengths: dict[str, int]) -> None:
    """Sequences of GOT-10k's val split, of so many frames of noise."""
    for name, frames in lengths.items():
        (split / name).mkdir(parents=True)
        image = np.random.default_rng(frames).integers(0, 255, (72, 96, 3), dtype=np.uint8)
        for index in range(frames):
            (split / name / f"{index + 1:08d}.jpg").write_bytes(encode(image, 90))
        (split / name / "groundtruth.txt").write_text("30,20,24,18\n" * frames)
        (split / name / "absence.label").write_text("0\n" * frames)
        (split / name / "cover.label").write_text("8\n" * frames)
    (split / "list.txt").write_text("".join(f"{name}\n" for name in lengths))


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


_FORK = """
import json, os, resource, sys
import lorat.train.cli, lorat.train.loop, lorat.train.setup
from lorat.shards.base.process import leave
import matplotlib.backends.backend_agg, matplotlib.figure
for line in sys.stdin:
    arguments, errors, environments, limit = json.loads(line)
    processes = []
    for environment in environments:
        processes.append(os.fork())
        if processes[-1] == 0:
            os.setsid()
            for number, name in ((0, os.devnull), (1, os.devnull), (2, errors)):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
            os.environ.update(environment)
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                lorat.train.cli.main(arguments)
            except SystemExit as end:
                leave(end.code)
    print(processes[0], flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    print(next(filter(None, codes), 0), flush=True)
"""


class Runner:
    """Runs ``lorat-train`` again and again, in one process or several.

    They are forked from one process that has imported everything, which saves seconds each, and are processes of their
    own all the same, with loader workers.
    """

    def __init__(self, server: subprocess.Popen[str], errors: Path) -> None:
        self._server, self.errors = server, errors

    def start(self, arguments: list[str], *environments: dict[str, str], limit: int = 0) -> int:
        """Start a run, one process for each environment, and return its first, the leader of a group.

        An environment is what is set on top; `limit` is how many bytes a file may have, 0 any number.
        """
        self.errors.write_text("")
        order = [arguments, str(self.errors), environments or ({},), limit]
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def wait(self) -> tuple[int, str]:
        """Return the first exit status that is not 0 (or minus the signal), and stderr."""
        return int(self._server.stdout.readline()), self.errors.read_text()

    def run(self, arguments: list[str], *environments: dict[str, str], limit: int = 0, status: int = 0) -> str:
        """Run to an exit status and return stderr, which is no traceback."""
        self.start(arguments, *environments, limit=limit)
        return self._ended(status)

    def _ended(self, status: int) -> str:
        code, errors = self.wait()
        assert code == status and "Traceback" not in errors, errors
        return errors

    def start_two(self, arguments: list[str], *on_each: dict[str, str]) -> int:
        """Start two ranks that meet over gloo, as torchrun would, and return the first's process."""
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        place["LORAT_TIMEOUT"] = "200"  # one that is lost is no hang
        own = on_each or ({}, {})
        ranks = [{**place, "RANK": str(r), "LOCAL_RANK": str(r), **each} for r, each in enumerate(own)]
        return self.start(arguments, *ranks)

    def run_two(self, arguments: list[str], *on_each: dict[str, str], status: int = 0) -> str:
        """Run two ranks to an exit status and return stderr, which is no traceback."""
        self.start_two(arguments, *on_each)
        return self._ended(status)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("runner")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _FORK], env=ONE_THREAD, **pipes) as server:
        yield Runner(server, folder / "stderr")
        server.kill()
