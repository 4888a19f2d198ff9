"""Workspaces with the real toolkit and a tracker without a network: what fails, what is killed, what is refused."""

import configparser
import json
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lorat.evaluate.vot.stacks import find_stack
from lorat.evaluate.vot.toolkit import Toolkit
from lorat.evaluate.vot.workspace import VotFailed, Workspace
from lorat.shards.base.errors import UserError
from tests.evaluate.vot.sequences import write_sequences

LIGHT, LINUX = Path(__file__).with_name("light_tracker.py"), sys.platform == "linux"


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """A workspace with two sequences of two objects, and the light tracker."""
    made = Workspace(tmp_path / "a workspace", find_stack("vots2024/main"), "Light")
    made.prepare(write_sequences(tmp_path / "sequences", objects=2, count=2))
    made.weights.write_bytes(b"none")
    made.claim("float32")
    made.register([sys.executable, str(LIGHT), str(tmp_path)], timeout=2)
    return made


def of_workspace(folder: Path) -> list[str]:
    """The command lines of this machine's processes that name a folder: ours, the leash, the toolkit, its tracker."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(folder) in line]


def test_whatever_ends_an_evaluation_gives_one_line_and_the_same_command_goes_on(toolkit, workspace, tmp_path):
    tool = Toolkit.find(toolkit)
    (tmp_path / "hang-seq-1-3").touch()
    workspace.register([sys.executable, str(LIGHT), str(tmp_path)], timeout=600)
    for number in (signal.SIGTERM, signal.SIGKILL):
        end_by(number, workspace, toolkit, tmp_path)
    workspace.register([sys.executable, str(LIGHT), str(tmp_path)], timeout=2)
    for order, reason in (
        ("hang-seq-1-3", "it did not reply in 2 seconds"),
        ("crash-seq-1-1", "RuntimeError: what went wrong at seq-1-1"),
        ("kill-seq-1-7", "its process was ended by SIGKILL"),
    ):
        (tmp_path / order).touch()
        with pytest.raises(VotFailed) as failed:
            workspace.evaluate(tool)
        message, logs = failed.value.message, sorted(workspace.log.parent.glob("Light_*.log"))
        assert failed.value.exit_code == 1 and "\n" not in message
        assert "vots2024/main: the tracker failed at sequence seq-1" in message
        assert reason in message and str(logs[-1]) in message
        assert not list(workspace.folder.glob("*.zip"))
        (tmp_path / order).unlink()
    first = {file: file.stat().st_mtime_ns for file in workspace.results.rglob("*.bin")}
    assert len(first) == 2  # both objects of the other sequence
    with zipfile.ZipFile(workspace.evaluate(tool)) as pack:
        assert "manifest.yml" in pack.namelist() and len([n for n in pack.namelist() if n.endswith(".bin")]) == 4
    assert all(file.stat().st_mtime_ns == when for file, when in first.items())


def end_by(number: signal.Signals, workspace: Workspace, toolkit: str, folder: Path) -> None:
    """Evaluate in a process of its own, and end that by a signal while the tracker hangs."""
    code = f"""
from pathlib import Path
from lorat.evaluate.vot.stacks import find_stack
from lorat.evaluate.vot.toolkit import Toolkit
from lorat.evaluate.vot.workspace import Workspace
Workspace(Path({str(workspace.folder)!r}), find_stack("vots2024/main"), "Light").evaluate(Toolkit.find({toolkit!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(workspace.results.rglob("*.bin"))) < 2 or (LINUX and len(of_workspace(folder)) < 4):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert number == signal.SIGKILL or "the same command goes on" in errors
    while LINUX and (left := of_workspace(folder)):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_stack_of_a_file_runs_on_sequences_that_the_toolkit_fetches(toolkit, tmp_path):
    served = write_sequences(tmp_path / "served", count=2)
    described = []
    for name in ("seq-0", "seq-1"):
        for part, files in (("color", "color/*.jpg"), ("annotations", "groundtruth.txt")):
            with zipfile.ZipFile(served / f"{name}-{part}.zip", "w") as packed:
                for file in sorted((served / name).glob(files)):
                    packed.write(file, file.name)
        parts = {
            part: {"url": f"{name}-{part}.zip", "uncompressed": 1, "uid": part} for part in ("color", "annotations")
        }
        channels = {"color": parts["color"] | {"pattern": "%08d.jpg"}}
        described.append({"name": name, "fps": 30, "annotations": parts["annotations"], "channels": channels})
    (served / "description.json").write_text(json.dumps({"name": "mine", "sequences": described}))
    with serving(served) as address:
        text = f"title: mine\ndataset: {address}/description.json\nexperiments: {{baseline: {{type: unsupervised}}}}\n"
        (tmp_path / "mine.yaml").write_text(text)
        stack = find_stack(str(tmp_path / "mine.yaml"))
        assert (stack.versions, stack.scored) == (("0.7.4", "0.9.0"), False)
        mine = Workspace(tmp_path / "workspace", stack, "Light")
        mine.prepare(None)
        mine.register([sys.executable, str(LIGHT), str(tmp_path)], timeout=30)
        with zipfile.ZipFile(mine.evaluate(Toolkit.find(toolkit))) as pack:
            assert {f"baseline/{name}/{name}_001.bin" for name in ("seq-0", "seq-1")} <= set(pack.namelist())
    assert (mine.folder / "sequences/list.txt").read_text() == "seq-0\nseq-1\n"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a web server on this machine that serves a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FILES = {
    "experiments: {a: {type: multistart}}": (("0.7.4",), False),
    "experiments: {a: {type: unsupervised, realtime: {grace: 3}}}": (("0.7.4",), False),
    "experiments: {a: {type: unsupervised, analyses: [{type: average_accuracy}]}}": (("0.7.4", "0.9.0"), True),
}


@pytest.mark.parametrize("text", FILES)
def test_a_stacks_file_says_which_versions_run_it_and_whether_it_scores(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    assert find_stack(str(tmp_path / "a.yaml"))[1:] == FILES[text]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("experiments: {a: {type: referral}}", "experiments of type referral; offered are multistart and unsupervised"),
        ("experiments: [1]", "no experiments with names"),
        ("a: [", "no YAML"),
    ],
)
def test_a_stack_that_cannot_be_run_is_refused(text, reason, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"a\.yaml: {reason}"):
        find_stack(str(tmp_path / "a.yaml"))
    with pytest.raises(UserError, match="vots2026/referral: not offered, since its tracks begin with words"):
        find_stack("vots2026/referral")
    with pytest.raises(UserError, match=r"b\.yaml"):
        find_stack(str(tmp_path / "b.yaml"))


def test_results_of_other_weights_or_number_types_are_not_mixed_in(workspace):
    assert workspace.begun is None
    workspace.results.mkdir(parents=True)
    (workspace.results / "a.bin").touch()
    workspace.claim("float32")
    assert workspace.begun == "float32"
    with pytest.raises(UserError, match="or another number type; give another --name, or remove it"):
        workspace.claim("bfloat16")
    with pytest.raises(UserError, match="other options"):
        workspace.claim("float32", {"redetect": "True"})
    workspace.weights.write_bytes(b"others")
    with pytest.raises(UserError, match="holds results of other weights"):
        workspace.claim("float32")


def test_other_trackers_of_a_workspace_stay_as_they_are(workspace):
    file = workspace.folder / "trackers.ini"
    file.write_text("[Mine]\nprotocol = trax\ncommand = mine %%d\nenv_PATH = /mine\n")
    workspace.register(["tracker", "50%", "a b"], timeout=7)
    read = configparser.ConfigParser()
    read.optionxform = str
    read.read(file)
    assert dict(read["Mine"]) == {"protocol": "trax", "command": "mine %d", "env_PATH": "/mine"}
    about = {"label": "Light", "protocol": "trax", "command": "tracker 50% 'a b'", "timeout": "7"}
    assert dict(read["Light"]) == about


def test_what_is_there_already_is_kept_or_refused(workspace, tmp_path):
    workspace.prepare(tmp_path / "sequences")
    workspace.prepare(None)
    other = write_sequences(tmp_path / "other")
    with pytest.raises(UserError, match="there are other sequences already"):
        workspace.prepare(other)
    (other / "list.txt").unlink()
    with pytest.raises(UserError, match=r"no list\.txt there"):
        workspace.prepare(other)
    with pytest.raises(UserError, match="is of another stack than vots2023"):
        Workspace(workspace.folder, find_stack("vots2023"), "Light").prepare(None)
    with pytest.raises(UserError, match="letters, digits, - and _"):
        Workspace(workspace.folder, find_stack("vots2023"), "g 378")
    with pytest.raises(UserError, match="takes no % in a path"):
        Workspace(tmp_path / "50% done", find_stack("vots2023"), "Light")


def test_a_toolkit_that_does_not_run_a_stack_is_named_with_what_to_install(toolkit, tmp_path):
    Toolkit.find(toolkit).check(find_stack("vot2020/shortterm"))
    remedy = r"runs on 0\.9\.0 .*; in a virtual .* pip install vot-toolkit==0\.9\.0 attributee==0\.1\.9"
    with pytest.raises(UserError, match=remedy):
        Toolkit.find(toolkit).check(find_stack("vots2026/main"))
    with pytest.raises(UserError, match=r"no such command; .* pip install vot-toolkit==0\.7\.4"):
        Toolkit.find(str(tmp_path / "vot"))
    (tmp_path / "vot").touch(mode=0o755)
    with pytest.raises(UserError, match="no python beside it"):
        Toolkit.find(str(tmp_path / "vot")).check(find_stack("vots2023"))
    (tmp_path / "python").symlink_to(sys.executable)  # an interpreter without the toolkit
    with pytest.raises(UserError, match=r"vot-toolkit none with attributee none; vots2023 runs on 0\.7\.4, 0\.9\.0"):
        Toolkit.find(str(tmp_path / "vot")).check(find_stack("vots2023"))
    with pytest.raises(UserError, match=r"unknown stack 'vots2032'.*did you mean"):
        find_stack("vots2032")
