"""No wait is without a word, a limit and an ear: a store that falls silent, shared memory that is full."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lorat.configs.schema import DataConfig
from lorat.shards.base.errors import UserError
from lorat.train.checkpoint.checkpoints import checkpoint_record, find_checkpoint
from lorat.train.data import batches as loading
from lorat.train.data import handover
from lorat.train.data.batches import make_loader
from lorat.train.data.handover import batch_bytes, check_shared_memory
from lorat.train.data.places import CropSpec
from tests.train.conftest import ONE_THREAD, TORCHRUN, Runner, command_line, log_of, recorded, wait_for, with_train
from tests.train.states import assert_same_state, contents

STEPS = 24
NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL")


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_variant, tiny_recipe, tiny_shards) -> list[str]:
    recipe = with_train(tiny_recipe, epochs=8, checkpoint_epochs=8)
    given = tmp_path_factory.mktemp("files"), tiny_variant, recipe, tiny_shards
    return command_line(*given, "--no-eval", "--resume=auto", "--set=data.prefetch=1")


@pytest.fixture(scope="module")
def whole(runner, files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    runner.run([*files, f"--run={folder}"])
    return folder


@pytest.fixture
def remote(own_s3, tiny_shards) -> list[str]:
    """The shards in a store of its own, as an option."""
    import boto3

    client = boto3.client("s3", endpoint_url=own_s3.endpoint)
    for path in tiny_shards.glob("*/*"):
        client.upload_file(str(path), own_s3.bucket, f"shards/{path.relative_to(tiny_shards)}")
    return [f"--shards={own_s3.url}/shards"]


@pytest.fixture
def silent(own_s3) -> Iterator[subprocess.Popen[bytes]]:
    """The store's process, which is let go on in the end."""
    yield own_s3.process
    own_s3.process.send_signal(signal.SIGCONT)


def environment(**more: str) -> dict[str, str]:
    return {**{name: os.environ[name] for name in NAMES}, "LORAT_PATIENCE": "1", **more}


def stop_in_the_middle(runner: Runner, arguments: list[str], run: Path, store, ranks: int = 1, **limits: str) -> int:
    """Start a run, stop its store once every worker has read of every shard, and return the leader of its processes."""
    start = runner.start if ranks == 1 else runner.start_two
    process = start([*arguments, f"--run={run}"], *[environment(**limits)] * ranks)
    wait_for(lambda: recorded(run) >= 6)
    store.send_signal(signal.SIGSTOP)
    return process


def unwrapped(text: str) -> str:
    """Text without the line ends that a narrow terminal brings."""
    return " ".join(text.split())


def told(runner: Runner) -> int:
    return unwrapped(runner.errors.read_text()).count("waiting for data (")


@pytest.mark.parametrize(
    ("number", "status", "workers", "ranks"),
    [(signal.SIGTERM, 143, 2, 1), (signal.SIGINT, 130, 0, 1), (signal.SIGTERM, 143, 1, 2)],
)
def test_a_store_that_falls_silent_is_told_and_the_run_saves_when_it_is_asked_to_end(
    runner, files, whole, remote, silent, tmp_path, number, status, workers, ranks
):
    run = tmp_path / "run"
    arguments = [*files, *remote, f"--set=data.workers={workers}"]
    process = stop_in_the_middle(runner, arguments, run, silent, ranks)
    before = told(runner)
    wait_for(lambda: told(runner) > before)
    time.sleep(1.5)
    assert told(runner) == before + 1  # once
    done, begin = recorded(run), time.monotonic()
    os.killpg(process, number)
    code, errors = runner.wait()
    assert code == status and "Traceback" not in errors, errors
    assert time.monotonic() - begin < 20
    assert re.search(r"waiting for data \((rank \d: )?s3://.*tar\.zst", unwrapped(errors))
    newest = find_checkpoint(run)
    assert checkpoint_record(newest).step == log_of(run)[-1]["step"] == done < STEPS
    assert f"saved {newest}" in errors.replace("\n", "")
    silent.send_signal(signal.SIGCONT)
    runner.run([*arguments, f"--run={run}"], environment())
    assert [entry["step"] for entry in log_of(run)] == list(range(1, STEPS + 1))
    if ranks == 1:
        assert_same_state(find_checkpoint(run), find_checkpoint(whole))
    else:
        found, wanted = (contents(find_checkpoint(each))[0] for each in (run, whole))
        assert all(value.allclose(wanted[name], atol=2e-3) for name, value in found.items())


@pytest.mark.parametrize("more", [[], ["--shard-cache=CACHE"]], ids=["ranged", "cached"])
def test_a_read_of_a_store_ends_at_its_limit(runner, files, remote, silent, tmp_path, more):
    more = [text.replace("CACHE", str(tmp_path / "cache")) for text in more]
    arguments = [*files, *remote, *more, "--set=data.workers=1", f"--run={tmp_path / 'run'}"]
    begin = time.monotonic()
    if more:  # everything would be there before the store falls silent
        silent.send_signal(signal.SIGSTOP)
        runner.start(arguments, environment(LORAT_STORE_TIMEOUT="5"))
    else:
        stop_in_the_middle(runner, arguments[:-1], tmp_path / "run", silent, LORAT_STORE_TIMEOUT="5")
    code, errors = runner.wait()
    assert code == 2 and "Traceback" not in errors, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("Error: s3://") and "no answer within 5 s; --store-timeout may be longer" in last
    assert time.monotonic() - begin < 150


def test_a_signal_before_the_first_step_is_one_line(runner, files, remote, silent, tmp_path):
    silent.send_signal(signal.SIGSTOP)
    process = runner.start([*files, *remote, f"--run={tmp_path / 'run'}"], environment())
    wait_for(lambda: "waiting for s3://" in runner.errors.read_text())
    os.kill(process, signal.SIGTERM)
    code, errors = runner.wait()
    assert code == 143 and errors.strip().splitlines()[-1] == "Error: stopped", errors
    assert "Traceback" not in errors


def test_compiling_is_told_and_broken_off_by_a_signal(runner, files, tmp_path):
    run = tmp_path / "run"
    limits = {"LORAT_PATIENCE": "0.2", "LORAT_GRACE": "0.5", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    process = runner.start([*files, "--set=train.compile=true", f"--run={run}"], limits)
    wait_for(lambda: "waiting for step 1, which is compiled since" in unwrapped(runner.errors.read_text()))
    begin = time.monotonic()
    os.kill(process, signal.SIGTERM)
    code, errors = runner.wait()
    assert code == 143 and "Traceback" not in errors, errors
    assert time.monotonic() - begin < 3
    assert "SIGTERM: no step was done; go on with --resume auto" in errors.replace("\n", "")


def test_shared_memory_that_is_too_small_is_refused_before_the_start(source, tmp_path, monkeypatch):
    monkeypatch.setattr(handover.shutil, "disk_usage", lambda _: SimpleNamespace(total=64 << 20, free=64 << 20))
    data = DataConfig(workers=2, prefetch=4)
    large = replace(source, batch_size=128, spec=CropSpec(112, 224, 8, 16, 2.0, 4.0))
    check = partial(check_shared_memory, validates=False, shared=tmp_path)
    check(source, data, 1)
    check(large, data, 8)
    check(large, data.model_copy(update={"workers": 0}), 1)
    with pytest.raises(UserError) as small:
        check(large, data, 1)
    for part in ("67.1 MB of 67.1 MB are free", "9 (data.workers 2 x data.prefetch 4 + 1)", "--shm-size", "workers=0"):
        assert part in small.value.message


def test_a_batch_takes_of_shared_memory_what_is_computed(source):
    batch = next(make_loader(source, workers=1))
    tensors = [value for value in batch._values() if isinstance(value, torch.Tensor)]
    assert all(tensor.is_shared() for tensor in tensors)
    (file_bytes,) = {tensor.untyped_storage().nbytes() for tensor in tensors}
    pages = -(-file_bytes // 4096) * 4096
    assert 0 <= batch_bytes(source, 1) - pages <= handover._ROUNDED


def test_a_batch_that_is_lost_on_its_way_ends_the_run(source, monkeypatch):
    """As where a worker has no more files to open: its thread prints an error, and the batch never comes."""

    class Stays:
        def __reduce__(self):
            raise OSError("cannot be sent")

    monkeypatch.setattr(loading, "_collate", lambda pairs: Stays())
    monkeypatch.setattr(handover, "_LOST_AFTER", 0.5)
    with pytest.raises(UserError, match=r"loader worker 0 \(process \d+\) made a batch that never came"):
        next(make_loader(source, workers=2))


@pytest.fixture
def small_memory(tmp_path) -> list[str]:
    """What makes a command see one megabyte of shared memory, which another program fills once a run has begun."""
    begun = f"while [ ! -s {tmp_path}/run/log.jsonl ]; do kill -0 $$ && sleep 0.1 || exit; done"
    fill = f"{begun}; while kill -0 $$; do cat /dev/zero >> /dev/shm/o; sleep 0.05; done"  # what a batch leaves too
    mount = "mount --make-rprivate / && mount -t tmpfs -o size=1m tmpfs /dev/shm"
    command = ["unshare", "-m", "sh", "-c", f'{mount} || exit 77; ({fill}) > /dev/null 2>&1 & exec "$@"', "sh"]
    try:
        code = subprocess.run([*command[:4], f"{mount} || exit 77"], capture_output=True).returncode
    except FileNotFoundError:
        code = 77
    if code:
        pytest.skip("nothing may be mounted here")
    return command


def test_too_little_shared_memory_is_one_line(small_memory, files, tmp_path):
    command = [*small_memory, sys.executable, "-m", "lorat.train.cli", *files, f"--run={tmp_path / 'run'}"]
    result = subprocess.run(
        [*command, "--set=data.workers=2", "--set=data.prefetch=4"], capture_output=True, env=ONE_THREAD, text=True
    )
    (line,) = result.stderr.strip().splitlines()
    assert result.returncode == 2 and "/dev/shm: 1.0 MB of 1.0 MB are free" in line and "--shm-size" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ranks", [1, 2])
def test_shared_memory_that_fills_up_ends_all_with_one_line(small_memory, files, tmp_path, ranks):
    module = [sys.executable, "-m"] if ranks == 1 else [*TORCHRUN, "-m"]
    options = [*files, f"--run-dir={tmp_path / 'run'}", "--set=data.workers=1", "--set=train.epochs=400"]
    begin = time.monotonic()
    result = subprocess.run(
        [*small_memory, *module, "lorat.train.cli", *options], capture_output=True, env=ONE_THREAD, text=True
    )
    said = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.returncode == (2 if ranks == 1 else 1), result.stderr  # torchrun has a status of its own
    assert len(said) == 1 and "a loader worker cannot place a batch, of 0.1 MB" in said[0], result.stderr
    assert re.search(r"/dev/shm: 0\.\d MB of 1\.0 MB are free", said[0]) and "docker run --shm-size" in said[0]
    assert "unable to allocate" not in result.stderr.replace(said[0], "")
    assert time.monotonic() - begin < 150
