"""Engines: what the work tells and raises comes out, wherever it runs."""

import contextlib
import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lorat.prep.build.plan import BuildOptions, make_plan
from lorat.prep.build.run import run_plan
from lorat.prep.pool import LocalEngine, RayEngine, Tell
from lorat.shards.base.errors import UserError

OPTIONS = BuildOptions(pairs=48, shard_pairs=16, workers=1)


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.tar.zst"))}


def double(shared: int, job: int, tell: Tell) -> None:
    tell(("began", job))
    tell(("ended", job * shared))


def refuse(shared: int, job: int, tell: Tell) -> None:
    if job == 3:
        raise UserError("image-3.jpg: does not decode; replace it")
    tell(job)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_job_is_run_once_and_everything_it_tells_arrives_in_order(workers):
    told: list[tuple[str, int]] = []
    LocalEngine(workers).run(double, 10, [1, 2, 3, 4, 5], told.append)
    assert sorted(told) == sorted([("began", n) for n in range(1, 6)] + [("ended", 10 * n) for n in range(1, 6)])
    assert all(told.index(("began", n)) < told.index(("ended", 10 * n)) for n in range(1, 6))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_users_mistake_comes_out_as_it_is(workers):
    with pytest.raises(UserError, match=r"^image-3.jpg: does not decode; replace it$"):
        LocalEngine(workers).run(refuse, 0, list(range(8)), lambda _: None)


class Unreadable:
    """Stands for an index that another process cannot open."""

    def __reduce__(self):
        return fail, ()


def fail():
    raise UserError("index: this process cannot open it")


def test_what_a_process_cannot_unpack_is_one_line_too():
    with pytest.raises(UserError, match="this process cannot open it"):
        LocalEngine(2).run(double, Unreadable(), [1, 2], lambda _: None)


def end_itself(shared: None, job: int, tell: Tell) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def test_a_worker_that_someone_terminates_is_the_users_matter_and_no_defect(capfd):
    with pytest.raises(UserError, match="worker process was killed"):
        LocalEngine(2).run(end_itself, None, [1, 2], lambda _: None)
    assert capfd.readouterr().err == ""


def clean_up_under_fire(shared: Path, job: int, tell: Tell) -> None:
    """Wait for the end in one of two ways, and be terminated once more on the way out."""
    file = shared / f"{job}.tmp"
    file.touch()
    try:
        while True:
            if job == 1:
                tell(job)
            time.sleep(0.01)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        file.unlink()


def tell_until_all_began(folder: Path, stop: BaseException) -> Tell:
    def tell(_: int) -> None:
        if len(list(folder.iterdir())) == 2:
            raise stop

    return tell


def test_a_worker_that_is_told_twice_to_end_cleans_up_and_prints_nothing(tmp_path, capfd):
    with pytest.raises(UserError, match="enough"):
        tell = tell_until_all_began(tmp_path, UserError("enough"))
        LocalEngine(2).run(clean_up_under_fire, tmp_path, [1, 2], tell)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


def test_who_presses_ctrl_c_again_still_leaves_no_process_behind(tmp_path):
    presses = [threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)) for after in (0.1, 0.3)]

    def tell(_: int) -> None:
        if len(list(tmp_path.iterdir())) == 2:
            for press in presses:
                press.start()
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        LocalEngine(2).run(clean_up_under_fire, tmp_path, [1, 2], tell)
    for press in presses:
        press.join()
    assert not multiprocessing.active_children()
    assert not list(tmp_path.iterdir())


def test_processes_that_cannot_be_started_are_one_line(monkeypatch):
    def refuse_pipe(self, duplex=True):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(multiprocessing.context.ForkServerContext, "Pipe", refuse_pipe)
    with pytest.raises(UserError, match=r"cannot be started \(Too many open files\).*--workers"):
        LocalEngine(2).run(double, 1, [1, 2], lambda _: None)


AS_INSTALLED = """
import pickle, sys
from lorat.prep.cli import main
from lorat.prep.build.plan import make_plan
from lorat.prep.build.shard import build_shard
from lorat.prep.pool import LocalEngine

def build_and_tell(plan, number, tell):
    build_shard(plan, number, lambda _: None)
    tell(sorted(sys.modules))

if __name__ == "__main__":
    from lorat.prep.cli.build import WORKERS_NEED
    with open(sys.argv[1], "rb") as file:
        plan = make_plan(*pickle.load(file))
    engine = LocalEngine(2)
    engine.prepare(*WORKERS_NEED)
    engine.run(build_and_tell, plan, [0, 1, 2], lambda names: print(*names))
"""


def test_a_worker_of_a_build_has_imported_nothing_that_it_does_not_need(tiny_clips, tmp_path):
    """The console script is what a worker imports again."""
    script, asked = tmp_path / "lorat-prep", tmp_path / "asked"
    script.write_text(AS_INSTALLED)
    asked.write_bytes(pickle.dumps((tiny_clips, tmp_path, OPTIONS)))
    command = [sys.executable, str(script), str(asked)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(told) == 3 and len(list(tmp_path.glob("toy-train/*.tar.zst"))) == 3
    for line in told:
        names = set(line.split())
        assert {"cv2", "lorat.prep.build.shard"} <= names
        assert not names & {"torch", "matplotlib", "rich", "pydantic", "yaml", "jinja2", "timm"}
        assert not {"lorat.configs", "lorat.prep.audit", "lorat.prep.browse"} & names


@pytest.fixture(scope="module")
def ray():
    """A Ray of two CPUs."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


def test_ray_builds_the_same_bytes(ray, tiny_clips, tiny_shards, tmp_path):
    plan = make_plan(tiny_clips, tmp_path, OPTIONS)
    engine = RayEngine()
    assert engine.slots() == 2
    shown: list[tuple[int, int]] = []
    report = run_plan(plan, engine, lambda *state: shown.append(state))
    assert report.built == 3 and shown[-1] == (48, 48)
    assert shard_bytes(tmp_path / "toy-train") == shard_bytes(tiny_shards / "toy-train")
    assert run_plan(plan, engine).built == 0


def test_ray_hands_on_a_tasks_mistake_in_one_line_and_keeps_finished_shards(ray, tiny_clips, tiny_shards, tmp_path):
    plan = make_plan(tiny_clips, tmp_path, OPTIONS)
    blocked = tmp_path / "toy-train" / "toy-train-00001.idx"
    blocked.mkdir(parents=True)
    with pytest.raises(UserError, match=r"00001\.idx: cannot be written") as caught:
        run_plan(plan, RayEngine())
    assert "\n" not in caught.value.message and "ray::" not in caught.value.message
    blocked.rmdir()
    report = run_plan(plan, RayEngine())
    assert report.manifest.rows == 48
    assert shard_bytes(tmp_path / "toy-train") == shard_bytes(tiny_shards / "toy-train")


def test_a_ray_worker_that_is_killed_does_not_stop_a_build(ray, tiny_clips, tmp_path):
    """Ray runs a task again when its process dies."""
    marker = tmp_path / "died"

    def die_once(shared: Path, job: int, tell: Tell) -> None:
        if job == 1 and not shared.exists():
            shared.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        tell(job)

    told: list[int] = []
    RayEngine().run(die_once, marker, [0, 1, 2], told.append)
    assert sorted(told) == [0, 1, 2]


def test_ray_says_in_one_line_what_a_node_cannot_open(ray):
    class Elsewhere:
        def __reduce__(self):
            return (eval, ("__import__('pathlib').Path('/nowhere/index').read_bytes()",))

    with pytest.raises(UserError, match="nowhere") as caught:
        RayEngine().run(double, Elsewhere(), [1], lambda _: None)
    assert "\n" not in caught.value.message


def test_the_command_builds_on_the_cluster_that_it_is_given(ray, long_tree, tmp_path):
    command = [sys.executable, "-m", "lorat.prep.cli", "build", f"--root=generic={long_tree}"]
    command += ["--datasets=generic", "--pairs=60", "--shard-pairs=20"]
    address = ray.get_runtime_context().gcs_address
    others = {"ray": ["--engine=ray", f"--ray-address={address}"], "local": ["--workers=1"]}
    built = {}
    for name, options in others.items():
        run = subprocess.run(
            [*command, *options, f"--shards={tmp_path / name}"],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "LORAT_CACHE": str(tmp_path / "cache")},
        )
        assert "2 at once" in run.stdout or name == "local"
        built[name] = shard_bytes(tmp_path / name / "generic-train")
    assert len(built["ray"]) == 3
    assert built["ray"] == built["local"]


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def running(tmp_path, long_tree):
    """A build command with two workers, in a process group of its own, some shards done."""
    command = [sys.executable, "-m", "lorat.prep.cli", "build", "--datasets=generic"]
    options = [f"--root=generic={long_tree}", f"--shards={tmp_path / 'shards'}", "--workers=2"]
    options += ["--pairs=4000", "--shard-pairs=40"]
    process = subprocess.Popen(
        [*command, *options],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LORAT_CACHE": str(tmp_path / "cache")},
    )
    folder = tmp_path / "shards" / "generic-train"
    wait_until(lambda: len(list(folder.glob("*.receipt.json"))) >= 2)
    yield process, folder
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def long_tree(tmp_path_factory, write_tree) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree"), frames=8, width=320)


def test_ctrl_c_is_one_line_and_leaves_nothing_behind(running):
    process, folder = running
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = [line for line in errors.decode().splitlines() if line.strip()]
    assert lines == ["Error: stopped; finished shards are kept, the same command goes on"]
    wait_until(lambda: not alive(process.pid))
    assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]
    assert '"stopped"' in (folder / "build.log").read_text().splitlines()[-1]


def test_workers_end_soon_after_the_command_alone_was_killed(running):
    process, _ = running
    process.kill()
    process.wait()
    wait_until(lambda: not alive(process.pid))
