"""What goes wrong is caught where it begins: no weight is lost, and the step can be done again."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lorat.configs.schema import RecipeConfig
from lorat.shards.base.errors import UserError
from lorat.train.distributed.world import World
from lorat.train.replay import load_dump, replay
from lorat.train.step.faults import Fault, Watch, explain_memory, step_unless
from lorat.train.step.loss import Losses
from lorat.train.step.step import Engine, update
from tests.train.batches import made_up_batch
from tests.train.conftest import ALONE, ONE_THREAD, recorded, train, two_processes, wait_for, weights_of, with_train

WILD = ["--set=train.lr=1e30", "--set=train.warmup_epochs=0"]


def last_line(result) -> str:
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture
def stopped(files, tmp_path):
    """A training whose second step is not finite, looked at after nine: its result and dump."""
    folder = tmp_path / "run"
    result = train(*files, *WILD, "--set=train.log_steps=100", f"--run={folder}", status=2)
    return result, folder / "faults" / "step_00000002"


def test_the_step_that_is_not_finite_is_named_with_its_samples_and_kept(stopped):
    result, dump = stopped
    line = last_line(result)
    assert line.startswith("Error: the loss is nan and the gradient norm nan at step 2, samples ")
    assert f"--replay {dump}" in line and "train.lr" in line and "--resume auto" in line
    assert sorted(p.name for p in dump.iterdir()) == ["batch.safetensors", "fault.json", "model.safetensors"]
    story = json.loads((dump / "fault.json").read_text())
    assert len(story["keys"]) == 8 and story["keys"][0] in line
    assert not list(dump.parent.glob(".*"))


def test_the_weights_that_are_kept_are_those_before_the_step(stopped, files, tmp_path):
    _, dump = stopped
    one = ["--set=train.epochs=1", "--set=train.pairs_per_epoch=8", "--set=train.lr=1e30"]
    short = tmp_path / "short"
    # Epochs of one step have other pairs, but no pair could lead where a rate of 1e30 does.
    train(*files, *one, "--set=train.warmup_epochs=0", f"--run={short}")
    kept, after_one = load_file(dump / "model.safetensors"), weights_of(short, 1)
    assert kept.keys() == after_one.keys()
    for name, tensor in kept.items():
        assert tensor.isfinite().all(), name
    moved = [n for n, t in kept.items() if t.abs().max() > 1e20]
    assert moved == [n for n, t in after_one.items() if t.abs().max() > 1e20] and moved


def test_a_replay_shows_the_losses_and_the_first_module_that_is_not_finite(stopped):
    _, dump = stopped
    result = train(f"--replay={dump}", "--device=cpu")
    assert "samples: 8 of 8 not finite" in result.output
    assert "weights not finite before the step: none" in result.output
    assert "first module whose output is not finite: blocks.0." in result.output
    assert "whose input was finite" in result.output
    assert all(len(line) <= 100 for line in result.output.splitlines())


def test_a_replay_names_the_one_sample_and_the_one_weight(stopped):
    _, folder = stopped
    weights = load_file(folder / "model.safetensors")
    with safe_open(folder / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    generator = torch.Generator().manual_seed(0)
    sound = {n: torch.randn(t.shape, generator=generator) * 0.1 for n, t in weights.items()}
    save_file(sound, folder / "model.safetensors", metadata)
    batch = load_file(folder / "batch.safetensors")
    batch["box"][3] = math.nan
    save_file(batch, folder / "batch.safetensors")
    dump = load_dump(folder)
    seen = replay(dump, "cpu", None)
    assert [s.key for s in seen.samples if not s.finite] == [dump.batch.keys[3]]
    assert not seen.module and not seen.weights

    name = next(n for n in sound if "mlp" in n and n.endswith("weight"))
    sound[name].view(-1)[0] = math.nan
    save_file(sound, folder / "model.safetensors", metadata)
    seen = replay(load_dump(folder), "cpu", None)
    assert len(seen.weights) == 1 and not any(s.finite for s in seen.samples)
    assert seen.module.startswith(seen.weights[0].removesuffix(".weight"))


def test_a_folder_that_is_no_dump_is_refused(tmp_path):
    result = train(f"--replay={tmp_path}", status=2)
    assert "no step that a training kept" in last_line(result)


def test_a_step_that_cannot_be_kept_is_told_all_the_same(runner, files, tmp_path):
    run = tmp_path / "run"
    line = runner.run([*files, *WILD, "--no-eval", f"--run={run}"], limit=50_000, status=2).splitlines()[-1]
    assert line.startswith("Error: the loss is nan and the gradient norm nan at step 2, samples ")
    assert "it could not be kept" in line and "model.safetensors: cannot be written" in line
    assert "train.dtype=float32" in line and "--replay" not in line
    assert not any((run / "faults").iterdir())


def test_two_processes_keep_one_dump_and_one_of_them_speaks(files, tmp_path):
    folder = tmp_path / "run"
    done = two_processes(*files, *WILD, f"--run-dir={folder}")
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: the loss")]
    assert len(errors) == 1 and "at step 2" in errors[0]
    dump = load_dump(folder / "faults" / "step_00000002")
    assert dump.record.ranks == 2 and len(dump.batch) == 8
    seen = replay(dump, "cpu", None)
    assert {s.rank for s in seen.samples if not s.finite} == set(dump.record.suspects)


class Ramp(nn.Module):
    """An objective of one weight whose loss is not finite in given steps."""

    dtype = torch.float32

    def __init__(self, bad: dict[int, float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.bad, self.step = bad, -1

    def forward(self, *_: torch.Tensor) -> Losses:
        self.step += 1
        loss = (self.weight * self.bad.get(self.step, 1.0)).sum()
        return Losses(loss, loss.detach()[None], loss.detach()[None])


def trained(steps: int, bad: dict[int, float], *, fused: bool = True) -> tuple[Ramp, Watch]:
    objective = Ramp(bad)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1, fused=fused)
    engine = Engine(objective, optimizer, ALONE)
    plan = RecipeConfig.model_validate({"name": "r", "data": {"datasets": {"a": 1}}}).train
    for step in range(steps):
        update(engine, plan, made_up_batch(), step)
    return objective, engine.watch


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_weight_changes_from_the_first_bad_step_on(bad, fused):
    whole, watch = trained(3, {}, fused=fused)
    assert watch.look() is None
    # Step 4 is finite again: its update is left out too, or the dump would not be of step 3.
    broken, watch = trained(6, {3: bad, 5: math.nan}, fused=fused)
    assert torch.equal(broken.weight, whole.weight)
    fault = watch.look()
    assert fault.step == 3 and not math.isfinite(fault.losses[0])


def test_looking_out_does_not_wait_for_the_device(monkeypatch):
    def waits(self: torch.Tensor) -> None:
        raise AssertionError("a step waits for the device")

    for name in ("item", "__bool__", "__float__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, waits)
    watch, optimizer = Watch(ALONE), torch.optim.AdamW([torch.ones(1)], fused=True)
    step_unless(optimizer, watch.see(0, torch.tensor(math.nan), torch.tensor(1.0)))


def test_ranks_whose_loss_is_finite_are_no_suspects():
    assert Fault(0, (1.0, math.nan, 2.0), math.nan).suspects == [1]
    assert Fault(0, (1.0, 2.0), math.inf).suspects == [0, 1]


def explained(error: Exception, recipe, variant, world=ALONE) -> str:
    with pytest.raises(UserError) as caught, explain_memory(recipe, variant, world):
        raise error
    return caught.value.message


def test_a_full_device_is_explained_with_what_helps(tiny_recipe, tiny_variant):
    world, error = World(0, 2, torch.device("cuda")), torch.OutOfMemoryError("CUDA out of memory.")
    text = explained(error, tiny_recipe, tiny_variant, world)
    assert "the CUDA device" in text and "4 pairs at once a process" in text and "\n" not in text
    assert all(p in text for p in ("accumulate=2", "checkpoint_activations=true", "parallel=fsdp", "--variant"))
    frugal = with_train(tiny_recipe, accumulate=4, checkpoint_activations=True)
    text = explained(error, frugal, tiny_variant, world)
    assert "1 pairs" not in text and "accumulate=" not in text and "activations" not in text


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "this machine"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "this machine"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), "the MPS device"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "data.workers"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "--shm-size"),
        (RuntimeError("CUDA error: out of memory"), "the CPU device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "the CPU device"),
    ],
)
def test_every_way_of_running_out_of_memory_is_explained(error, part, tiny_recipe, tiny_variant):
    assert part in explained(error, tiny_recipe, tiny_variant)


def test_a_step_that_is_one_graph_is_not_to_be_cut(tiny_recipe, tiny_variant):
    recipe = with_train(tiny_recipe, compile=True)
    world = World(0, 2, torch.device("cuda"))
    assert "parallel=fsdp" not in explained(MemoryError(), recipe, tiny_variant, world)


@pytest.mark.skipif(sys.platform != "linux", reason="children are looked up as Linux lists them")
def test_a_worker_that_is_killed_while_its_batch_is_waited_for_is_explained(runner, files, tmp_path):
    run = tmp_path / "run"
    more = ["--no-eval", "--set=data.workers=1", "--set=train.epochs=400"]
    process = runner.start([*files, *more, f"--run={run}"])
    wait_for(lambda: recorded(run) >= 3)
    (worker,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    os.kill(int(worker), signal.SIGSTOP)
    time.sleep(1.0)  # what it made ahead is trained on
    os.kill(int(worker), signal.SIGKILL)
    code, errors = runner.wait()
    assert code == 2 and "Traceback" not in errors, errors
    assert "out of memory: a loader process" in errors.splitlines()[-1]


def test_other_errors_keep_their_traceback(tiny_recipe, tiny_variant):
    with pytest.raises(RuntimeError, match="shape"), explain_memory(tiny_recipe, tiny_variant, ALONE):
        raise RuntimeError("shape mismatch")


LIMITED = """
import resource, sys
from lorat.train.cli import main
import lorat.train.loop, lorat.train.setup
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (200 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's here")
def test_a_processor_without_enough_memory_ends_in_one_line(files, tmp_path):
    large = ["--set=train.batch_size=2048", "--set=train.pairs_per_epoch=2048"]
    command = [sys.executable, "-c", LIMITED, *files, *large, f"--run={tmp_path / 'run'}"]
    one_heap = {**ONE_THREAD, "MALLOC_ARENA_MAX": "1"}  # else each thread reserves much of what there is
    done = subprocess.run(command, capture_output=True, text=True, env=one_heap, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert last_line(done).startswith("Error: out of memory") and "train.batch_size 2048" in last_line(done)
