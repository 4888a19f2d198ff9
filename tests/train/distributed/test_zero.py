"""DeepSpeed's ZeRO and a compiled backward pass on two processes give what one process gives, within rounding.

This file is also what the two processes run.
"""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from lorat.configs.load import load_recipe
from lorat.shards.base.errors import UserError
from lorat.shards.base.process import end_process
from tests.train.conftest import first_epoch_of
from tests.train.distributed.test_distributed import Case, assert_trained_as_one, results_of, run_cases, trained
from tests.train.distributed.test_fsdp import assert_same_files, on_one, tiny_files

deepspeed = pytest.importorskip("deepspeed")


def compiled(world) -> dict[str, torch.Tensor]:
    """Real graphs of forward and backward pass; what a C++ compiler makes of them is not asked."""
    whole, torch.compile = torch.compile, partial(torch.compile, backend="aot_eager")
    module = torch.nn.Module.compile
    torch.nn.Module.compile = lambda self, **options: module(self, backend="aot_eager", **options)
    try:
        found = trained(world, torch.float32, compile=True, compiled_autograd=True)
    finally:
        torch.compile, torch.nn.Module.compile = whole, module
    captures = torch._dynamo.utils.counters["compiled_autograd"]["captures"]
    assert captures >= 1, "the backward pass was not compiled"
    return found


def shared(world, stage: int) -> dict[str, torch.Tensor]:
    """What ZeRO trains, with nothing compiled before."""
    found = trained(world, torch.float32, parallel="deepspeed", zero_stage=stage, ema=0.0)
    assert deepspeed.comm.comm.cdb.shm_comm_op is None, "it built an operator, which takes a minute"
    return found


CASES: dict[str, Case] = {
    "stage 1": partial(shared, stage=1),
    "stage 3": partial(shared, stage=3),
    "compiled": compiled,
}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    """What two processes found."""
    return results_of("tests.train.distributed.test_zero", CASES, tmp_path_factory.mktemp("two"))[0]


@pytest.mark.parametrize("case", CASES)
def test_weights_and_optimiser_end_as_those_of_one_process(two, case):
    assert_trained_as_one(two[case], torch.float32, **({} if case == "compiled" else {"ema": 0.0}))


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_variant, tiny_recipe, tiny_shards) -> list[str]:
    """The command line of a small training with pairs."""
    files = tiny_files("lora", tmp_path_factory.mktemp("zero"), tiny_variant, tiny_recipe, tiny_shards)
    return [*files, "--set=train.ema=0"]


def test_its_files_are_those_of_one_process_and_each_goes_on_from_the_others(runner, files, tmp_path):
    alone = on_one(runner, files, tmp_path / "alone")
    spread = tmp_path / "spread"
    options = ["--set=train.parallel=deepspeed", "--set=train.zero_stage=3"]
    runner.run_two([*files, f"--run={spread}", *options])
    for epoch in (1, 2, 3):
        assert_same_files(alone, spread, epoch, averages=False)
    on_one(runner, files, first_epoch_of(spread, tmp_path / "one"), "--resume=auto")
    assert_same_files(alone, tmp_path / "one", averages=False)
    again = first_epoch_of(alone, tmp_path / "two")
    runner.run_two([*files, f"--run={again}", "--resume=auto", "--set=train.parallel=deepspeed"])
    assert_same_files(alone, again, averages=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("train.parallel=deepspeed", "train.compile=true"), r"train\.parallel=deepspeed would cut"),
        (("train.parallel=deepspeed", "train.dtype=float16"), "bfloat16 or float32"),
        (("train.parallel=deepspeed", "train.ema=0.9"), "moving average"),
        (("train.compiled_autograd=true",), r"train\.compile=true"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        load_recipe("toy", settings)


if __name__ == "__main__":
    run_cases(CASES, Path(sys.argv[1]))
    end_process(0)
