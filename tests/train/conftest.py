import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from lorat.configs.schema import AugmentConfig, BackboneConfig, RecipeConfig, VariantConfig
from lorat.shards.manifest import load_manifest
from lorat.train.cli import main
from lorat.train.data.places import CropSpec, Source


@pytest.fixture(scope="session")
def tiny_variant() -> VariantConfig:
    args = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
    backbone = BackboneConfig(timm="vit_small_patch14_dinov2", pretrained=False, args={**args, "init_values": None})
    return VariantConfig(name="tiny", backbone=backbone, lora=None, template_size=32, search_size=64)


@pytest.fixture(scope="session")
def tiny_recipe() -> RecipeConfig:
    return RecipeConfig.model_validate(
        {
            "name": "tiny",
            "data": {"datasets": {"toy-train": 2, "toy-val": 1}, "workers": 0},
            "train": {
                "batch_size": 8,
                "pairs_per_epoch": 24,
                "epochs": 3,
                "lr": 1e-3,
                "warmup_epochs": 1,
                "checkpoint_epochs": 1,
                "log_steps": 1,
                "dtype": "float32",
            },
        }
    )


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
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "-m", "lorat.train.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, env=environment, timeout=300, text=True)


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


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


_FORK = """
import json, os, resource, sys
import lorat.train.cli, lorat.train.loop, lorat.train.setup
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
            lorat.train.cli.main(arguments)
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
        """Start a run and return its first process, the leader of a group.

        Args:
            arguments: of the command.
            environments: what is set on top, for each process.
            limit: bytes that a file may have; 0 is no limit.
        """
        self.errors.write_text("")
        order = [arguments, str(self.errors), environments or ({},), limit]
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def wait(self) -> tuple[int, str]:
        """Return the first exit status that is not 0 (or minus the signal), and stderr."""
        return int(self._server.stdout.readline()), self.errors.read_text()

    def run(self, arguments: list[str], *environments: dict[str, str], limit: int = 0) -> tuple[int, str]:
        self.start(arguments, *environments, limit=limit)
        return self.wait()

    def run_two(self, arguments: list[str]) -> tuple[int, str]:
        """Run as two ranks that meet over gloo, as torchrun would start them."""
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        place["LORAT_TIMEOUT"] = "200"  # one that is lost is no hang
        return self.run(arguments, *({**place, "RANK": r, "LOCAL_RANK": r} for r in "01"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("runner")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", _FORK], env=environment, **pipes) as server:
        yield Runner(server, folder / "stderr")
        server.kill()
