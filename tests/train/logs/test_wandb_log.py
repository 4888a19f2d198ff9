"""wandb, the installed one, gets what the log gets, asks nothing, and can fail without a training noticing."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from lorat.train.logs.result import read_best
from lorat.train.logs.wandb_log import About, code_version, has_key, run_id, wandb_run
from tests.conftest import ROOT
from tests.train.conftest import ONE_THREAD, log_of, write_got10k

wandb = pytest.importorskip("wandb")
from tests.train.logs.wandb_files import Told, read_run  # noqa: E402  # reads with wandb's own records

CLOSED = "http://127.0.0.1:9"
ABOUT = About(config={"recipe": {"lr": 0.5}}, batch_size=8, tags=["tiny"], summary={"model_num_param": 7})


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path) -> Iterator[None]:
    """No key, no way to a server even if one were tried, and no service of wandb that outlives the test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", CLOSED)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    yield
    wandb.teardown()


def run_in(folder: Path, mode: str, about: About = ABOUT):
    folder.mkdir(exist_ok=True)
    return wandb_run(folder, mode, about)


def written(folder: Path) -> list[Told]:
    """What wandb's files of a run say, the older first; all are of the folder's id."""
    wandb.teardown()  # the last bytes come after a run's end
    name = f"run-{(folder / 'wandb_id.txt').read_text().strip()}.wandb"
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert [file.name for file in files] == [name] * len(files)
    return list(map(read_run, files))


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the project said; wandb has a log of its own."""
    return [record.getMessage() for record in caplog.records if record.name == "lorat"]


def numbers(point: dict) -> dict:
    """A point without what wandb adds."""
    return {name: value for name, value in point.items() if not name.startswith("_")}


def test_off_does_not_even_import_wandb(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lorat.train.logs.wandb_log import About, wandb_run\n"
        "with wandb_run(Path('x'), 'off', About(config={}, batch_size=8)) as tell: assert tell is None\n"
        "assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_records_become_points_over_steps_and_pairs_and_the_last_ones_the_summary(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_TAGS", "mine,night")
    with run_in(tmp_path / "run", "offline") as tell:
        tell(10, {"loss": 0.5, "verdict": "speed: fine"})
        tell(20, {"loss": 0.25, "got10k-val/ao": 0.125})
    (told,) = written(tmp_path / "run")
    points = [{"step": 10, "pairs": 80, "loss": 0.5}, {"step": 20, "pairs": 160, "loss": 0.25, "got10k-val/ao": 0.125}]
    assert list(map(numbers, told.history)) == points and told.exit_code == 0
    assert points[1] | {"model_num_param": 7} == numbers(told.summary)
    assert list(told.run.tags) == ["tiny", "mine", "night"]
    assert (told.run.project, told.run.run_group, told.run.display_name) == ("lorat", "run", "run")


def test_project_and_group_are_those_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "trackers")
    monkeypatch.setenv("WANDB_RUN_GROUP", "seeds")
    with run_in(tmp_path / "run", "offline"):
        pass
    (told,) = written(tmp_path / "run")
    assert (told.run.project, told.run.run_group) == ("trackers", "seeds")


@contextmanager
def proxy() -> Iterator[str]:
    """Something on the way to the server that finds nothing."""

    class NotFound(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(404)

        do_GET = do_POST  # the names are http.server's

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("way", ["no key", "closed", "proxy"])
def test_online_without_a_way_to_the_server_is_offline_under_the_same_id_in_one_line(
    way, tmp_path, monkeypatch, caplog, capfd
):
    caplog.set_level(logging.INFO, logger="lorat")
    # A command that another test ran here speaks by a handler of its own, and by that alone.
    monkeypatch.setattr(logging.getLogger("lorat"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("lorat"), "propagate", True)
    if way != "no key":
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with proxy() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address if way == "proxy" else CLOSED)
        with run_in(tmp_path / "run", "online") as tell:
            tell(1, {"loss": 0.5})
    (told,) = written(tmp_path / "run")
    assert [numbers(point) for point in told.history] == [{"step": 1, "pairs": 8, "loss": 0.5}]
    (line,) = ours(caplog)
    folder = next(tmp_path.glob("run/wandb/offline-run-*"))
    reason = r"no API key \(wandb login\)" if way == "no key" else r"no connection \(.+\)"
    assert re.fullmatch(rf"wandb: {reason}; send the run later with: wandb sync {folder}", line)
    assert "".join(capfd.readouterr()) == ""


def test_a_training_that_fails_is_marked_and_its_error_kept(tmp_path):
    with pytest.raises(ValueError, match="mine"), run_in(tmp_path / "run", "offline"):
        raise ValueError("mine")
    assert written(tmp_path / "run")[0].exit_code == 1


def test_a_service_that_is_killed_is_said_once_and_the_training_goes_on(tmp_path):
    """Also when the process ends."""
    code = (
        "import os, pathlib, signal, subprocess, sys\n"
        "from lorat.shards.base.console import start_logging\n"
        "from lorat.train.logs.wandb_log import About, wandb_run\n"
        "start_logging()\n"
        "with wandb_run(pathlib.Path('run'), 'offline', About(config={}, batch_size=8)) as tell:\n"
        "    tell(1, {'loss': 0.5})\n"
        "    found = subprocess.run(['pgrep', '-P', str(os.getpid()), 'wandb-core'], capture_output=True, check=True)\n"
        "    service = int(found.stdout)\n"
        "    os.kill(service, signal.SIGKILL)\n"
        "    os.waitpid(service, 0)\n"
        "    for step in range(2, 30): tell(step, {'loss': 0.5})\n"
        "print('trained')"
    )
    (tmp_path / "run").mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout == "trained\n"
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("info: ")]
    assert len(warnings) == 1 and re.fullmatch(
        r"warning: wandb: a record failed \(.+\); the training goes on without it", warnings[0]
    ), done.stderr


def test_a_start_that_fails_leaves_the_training_alone(tmp_path, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/wandb").write_text("a file where wandb wants its folder")
    with run_in(tmp_path / "run", "offline") as tell:
        assert tell is None
    (line,) = ours(caplog)
    assert line.startswith("wandb: the start failed (") and "Not a directory" in line


def test_a_key_is_found_where_wandb_login_puts_it(monkeypatch, tmp_path):
    assert not has_key()
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1\n  login user\n  password " + "0" * 40)
    (home / ".netrc").chmod(0o600)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_key()


def test_a_run_folder_keeps_its_id_and_takes_that_of_a_sweep(tmp_path, monkeypatch):
    first = run_id(tmp_path)
    assert run_id(tmp_path) == first != run_id(tmp_path / "other") and len(first) == 8
    monkeypatch.setenv("WANDB_RUN_ID", "sweep123")
    assert (run_id(tmp_path), run_id(tmp_path / "new")) == (first, "sweep123")


def test_the_codes_version_is_the_checkouts_and_none_of_another_repository(tmp_path):
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if git.returncode:
        pytest.skip("no checkout here")
    assert code_version() in (git.stdout.strip(), f"{git.stdout.strip()}-dirty")


def test_a_real_training_leaves_scores_and_figures_and_goes_on_under_its_id(files, tmp_path):
    write_got10k(tmp_path / "raw/GOT-10k/val", {"GOT-10k_Val_000001": 4})
    folder = tmp_path / "run"
    more = ["--wandb=online", f"--raw={tmp_path}/raw", f"--run={folder}", "--resume=auto"]
    command = [sys.executable, "-m", "lorat.train.cli", *files, *more]
    for _ in range(2):  # the second time from the last checkpoint
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_THREAD}, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("wandb: ") == 1 and "no API key" in done.stderr
    first, second = written(folder)
    log = log_of(folder)
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(1, 10))
    assert first.summary["got10k-val/ao"] == log[-1]["got10k-val/ao"] and first.summary["step"] == 9
    assert first.summary["best/got10k-val/ao"] == read_best(folder).score and first.summary["best/epoch"] > 0
    assert first.summary["model_num_param"] == first.summary["model_num_param_eval"] > 10_000  # no LoRA
    assert first.summary["model_mac_track"] * 2e-9 == pytest.approx(first.summary["model_gflop"])
    assert first.summary["model_latency_ms"] * first.summary["model_fps"] == pytest.approx(1000.0)
    config = {item.key: json.loads(item.value_json) for item in first.run.config.update}
    assert config["recipe"]["train"]["pairs_per_epoch"] == 24 and config["code"] == code_version()
    assert second.run.run_id == first.run.run_id and list(second.run.tags) == ["tiny"]


def test_the_sweep_of_the_docs_drives_a_training(files, tmp_path, monkeypatch):
    """wandb's own agent composes and starts the command; only what it trains is smaller."""
    from wandb.wandb_agent import Agent

    page = (ROOT / "docs/watching.md").read_text()
    (text,) = re.findall(r"```yaml\n(method: .+?)```", page, re.DOTALL)
    sweep = yaml.safe_load(text)
    mine = f"{sys.executable} -m lorat.train.cli {' '.join(files)} --no-eval --set train.epochs=1"
    sweep["command"][2] = sweep["command"][2].replace("lorat-train --recipe short", mine)
    given = {"train.lr": 1.5e-05, "train.batch_size": 4, "variant.search_factor": 5.0}
    assert {*sweep["parameters"]} >= {"train.lr", "train.batch_size"} and mine in sweep["command"][2]
    for name, value in ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_RUN_ID", "")  # the agent sets it for its runs, and leaves it set
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    monkeypatch.chdir(tmp_path)
    agent = Agent(api=None, queue=None, sweep_id="sweep")
    agent._sweep_command = sweep["command"]
    started = {"run_id": "agent001", "program": None, "args": {name: {"value": v} for name, v in given.items()}}
    agent._command_run({"type": "run", **started})
    process = agent._run_processes["agent001"]
    try:
        assert process.wait() == 0
    finally:
        if process.poll() is None:
            process.kill()
    record = yaml.safe_load((tmp_path / "runs/sweep-agent001/config.yaml").read_text())
    train, variant = record["recipe"]["train"], record["variant"]
    assert [train["lr"], train["batch_size"], variant["search_factor"]] == list(given.values())
    (told,) = written(tmp_path / "runs/sweep-agent001")
    assert told.run.run_id == "agent001" and numbers(told.summary)["step"] == 6
