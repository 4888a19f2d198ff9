"""wandb gets what the log gets, asks nothing, and can fail without a training noticing."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from lorat.train.logs.wandb_log import has_key, run_id, wandb_run
from tests.train.conftest import ONE_THREAD, log_of

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    """No key, and no way to a server even if one were tried."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))


def run_in(folder: Path, mode: str):
    folder.mkdir(exist_ok=True)
    return wandb_run(folder, mode, {"recipe": {"lr": 0.5}}, 8)


class Fake:
    """A run of wandb that remembers, or refuses from a given record on."""

    dir = "run/wandb/offline-run/files"

    def __init__(self) -> None:
        self.entries, self.exit_code, self.fails_at = [], None, 1000
        self.define_metric = lambda *_, **__: None

    def log(self, entry) -> None:
        if len(self.entries) >= self.fails_at:
            raise BrokenPipeError("the service is gone")
        self.entries.append(entry)

    def finish(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code


@pytest.fixture
def fake(monkeypatch):
    made = Fake()
    monkeypatch.setattr(wandb, "init", lambda **_: made)
    return made


def test_off_does_not_even_import_wandb(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lorat.train.logs.wandb_log import wandb_run\n"
        "with wandb_run(Path('x'), 'off', {}, 8) as tell: assert tell is None\n"
        "assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_records_become_points_over_steps_and_pairs(fake, tmp_path):
    with run_in(tmp_path / "run", "offline") as tell:
        tell(10, {"loss": 0.5, "verdict": "speed: fine"})
    assert fake.entries == [{"step": 10, "pairs": 80, "loss": 0.5}] and fake.exit_code == 0


def test_no_key_means_offline_and_one_line(fake, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="lorat")
    with run_in(tmp_path / "run", "online"):
        pass
    assert "no API key" in caplog.messages[0] and "wandb sync" in caplog.messages[1]
    assert len(caplog.messages) == 2


def test_a_failure_is_said_once_and_the_training_goes_on(fake, tmp_path, caplog):
    fake.fails_at = 1
    with run_in(tmp_path / "run", "offline") as tell:
        for step in range(5):
            tell(step, {"loss": 0.5})
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == ["wandb: a record failed (the service is gone); the training goes on without it"]


def test_a_training_that_fails_is_marked_and_its_error_kept(fake, tmp_path):
    with pytest.raises(ValueError, match="mine"), run_in(tmp_path / "run", "offline"):
        raise ValueError("mine")
    assert fake.exit_code == 1


def test_a_server_that_does_not_answer_means_offline(monkeypatch, tmp_path, caplog):
    modes = []

    def start(mode: str, **_: object) -> Fake:
        modes.append(mode)
        if mode == "online":
            raise ConnectionError("unreachable")
        return Fake()

    monkeypatch.setattr(wandb, "init", start)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with run_in(tmp_path / "run", "online") as tell:
        tell(1, {"loss": 0.5})
    assert modes == ["online", "offline"] and "unreachable" in caplog.text


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


def test_a_run_folder_keeps_its_id(tmp_path):
    first = run_id(tmp_path)
    assert run_id(tmp_path) == first != run_id(tmp_path / "other") and len(first) == 8


def test_a_real_training_offline_leaves_files_and_goes_on_under_its_id(files, tmp_path):
    folder = tmp_path / "run"
    more = ["--wandb=online", "--no-eval", f"--run={folder}", "--resume=auto"]
    command = [sys.executable, "-m", "lorat.train.cli", *files, *more]
    for _ in range(2):  # the second time from the last checkpoint
        done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("no API key") == 1 and "wandb sync" in done.stderr
    identity = (folder / "wandb_id.txt").read_text().strip()
    stored = sorted(folder.glob(f"wandb/offline-run-*/run-{identity}.wandb"))
    assert len(stored) == 2 == len(list(folder.glob("wandb/offline-run-*")))
    raw = stored[0].read_bytes()
    assert b"pairs_per_second" in raw and b"pairs_per_epoch" in raw
    assert [record["step"] for record in log_of(folder)] == list(range(1, 10))


def test_a_start_that_fails_or_a_server_that_is_gone_leaves_the_training_alone(monkeypatch, tmp_path, caplog):
    given = {}

    def init(**options):
        given.update(options)
        raise RuntimeError("no service")

    monkeypatch.setattr(wandb, "init", init)
    with run_in(tmp_path / "run", "offline") as tell:
        assert tell is None
    assert "no service" in caplog.text
    if "finish_timeout" not in wandb.Settings.model_fields:
        pytest.skip("this release has no limit for the end")
    assert 0 < given["settings"].finish_timeout <= 600 and given["settings"].init_timeout <= 60
