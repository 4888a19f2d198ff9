"""A workspace of VOT's toolkit: prepared, worked in by its commands, and judged by the files that they leave.

Promise: nothing counts as done because a command ended well; the toolkit's end well though sequences failed. Results of
two trackers never mix under one name. What is tracked stays, and the toolkit goes on behind it.
"""

import configparser
import io
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lorat.evaluate.vot.stacks import Stack
from lorat.evaluate.vot.toolkit import Toolkit
from lorat.shards.base.disk import explain_disk
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file, file_digest, read_json, write_json

_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_FAILED = re.compile(r"encountered an error at sequence (?P<sequence>\S+): (?P<reason>[^\n\r\x1b]*)")
_LAST_WORDS = re.compile(r"(?m)^((?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt)\b.*)$")  # of ours, or of a traceback
_YEAR = "[0-9]" * 4  # begins the time in the names of packs and logs
_ENDED_BY = re.compile(r"Process exited with code \(-(\d+)\)")


class VotFailed(UserError):
    """An evaluation that could not be finished, with the tracker's reason."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder in which the toolkit evaluates a tracker on a stack."""

    folder: Path  # absolute
    stack: Stack
    name: str  # the tracker's, in the toolkit's files

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(f"--name {self.name}: the toolkit takes letters, digits, - and _")
        if "%" in str(self.folder):
            raise UserError(f"{self.folder}: the toolkit takes no % in a path; name another --workspace")

    @property
    def weights(self) -> Path:
        """Where the tracker's merged weights stand."""
        return self.folder / f"{self.name}.safetensors"

    @property
    def results(self) -> Path:
        """Where the toolkit writes trajectories: a folder for each experiment, and in it for each sequence."""
        return self.folder / "results" / self.name

    @property
    def log(self) -> Path:
        """What the toolkit said."""
        return self.folder / "logs" / "toolkit.log"

    def prepare(self, sequences: Path | None) -> None:
        """Make the folder, or find it made, for the stack and its sequences: those in a folder, or else those that are
        there, or that the toolkit will fetch.
        """
        config = self.folder / "config.yaml"
        text = f"registry: [./trackers.ini]\nstack: {self.stack.name}\n"
        with explain_disk(config):
            self.log.parent.mkdir(parents=True, exist_ok=True)
        if config.is_file():
            if f"stack: {self.stack.name}" not in config.read_text().splitlines():
                raise UserError(f"{config}: is of another stack than {self.stack.name}; name another --workspace")
        else:
            with atomic_file(config) as file:
                file.write(text.encode())
        if sequences is not None:
            self._link(sequences.resolve())

    def _link(self, sequences: Path) -> None:
        link = self.folder / "sequences"
        if not (sequences / "list.txt").is_file():  # the toolkit would begin to fill the folder
            raise UserError(f"{sequences}: no list.txt there; name the folder of the stack's sequences")
        if link.resolve() == sequences:
            return
        if link.exists() or link.is_symlink():
            raise UserError(f"{link}: there are other sequences already; leave out --sequences, or remove it")
        with explain_disk(link):
            link.symlink_to(sequences, target_is_directory=True)

    @property
    def begun(self) -> str | None:
        """The number type of the results that are there, which another measurement of the machine might not choose."""
        return read_json(self._note).get("dtype") if any(self.results.rglob("*")) and self._note.is_file() else None

    @property
    def _note(self) -> Path:
        return self.folder / f"{self.name}.json"

    def claim(self, dtype: str, how: Mapping[str, str] = MappingProxyType({}), graphs: Sequence[Path] = ()) -> None:
        """Note that results under the name are of the weights there, or of the files of `graphs`, computed in a number
        type, with boxes and masks made as `how` says; a `UserError` if they are of others.
        """
        digests = "+".join(file_digest(path, "run again") for path in graphs or (self.weights,))
        identity = {"weights": digests, "dtype": dtype, **how}
        if any(self.results.rglob("*")) and (not self._note.is_file() or read_json(self._note) != identity):
            text = "holds results of other weights, other options, or another number type"
            raise UserError(f"{self.results}: {text}; give another --name, or remove it")
        write_json(self._note, identity)

    def register(self, command: Sequence[str], timeout: int) -> None:
        """Write the tracker's command into ``trackers.ini``, beside others that are there; after `timeout` seconds
        without an answer it counts as hung.
        """
        path = self.folder / "trackers.ini"
        registry = configparser.ConfigParser(interpolation=None)
        registry.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            registry.read(path)
        except configparser.Error as error:
            raise UserError(f"{path}: {error}; correct or remove it") from None
        values = {"label": self.name, "protocol": "trax", "command": shlex.join(command), "timeout": str(timeout)}
        registry[self.name] = {key: value.replace("%", "%%") for key, value in values.items()}
        text = io.StringIO()
        registry.write(text)
        with atomic_file(path) as file:
            file.write(text.getvalue().encode())

    def evaluate(self, toolkit: Toolkit) -> Path:
        """Track what is not tracked yet and return the pack; `VotFailed` with the tracker's reason if there is none."""
        before = self._packs()
        said = toolkit.run(self.log, "evaluate", "--workspace", str(self.folder), self.name)
        if not _FAILED.search(said):
            said += toolkit.run(self.log, "pack", "--workspace", str(self.folder), self.name)
        if not (new := self._packs() - before):
            raise VotFailed(f"{self.stack.name}: {self._reason(said)}; the same command goes on")
        return max(new)

    def _packs(self) -> set[Path]:
        return set(self.folder.glob(f"{self.name}_{_YEAR}-*.zip"))

    def _reason(self, said: str) -> str:
        """Return why there is no pack: the tracker's own last words where it had any."""
        if (failed := _FAILED.search(said)) is None:
            return f"the toolkit wrote no pack (it says: {_last_line(said)}; log: {self.log})"
        log = max(self.log.parent.glob(f"{self.name}_{_YEAR}-*.log"), default=self.log)
        text = log.read_text(errors="replace")
        reason = failed["reason"]
        if words := _LAST_WORDS.findall(text):
            reason = words[-1].removeprefix("Error: ")
        elif "did not reply" not in reason and (ended := _ENDED_BY.search(text)):
            reason = f"its process was ended by {signal.Signals(int(ended[1])).name}"
        return f"the tracker failed at sequence {failed['sequence']}: {reason} (log: {log})"

    def analyse(self, toolkit: Toolkit) -> list[Path]:
        """Compute the stack's scores and return the files: JSON, and a page. `VotFailed` if one was not written."""
        files = {
            "analysis": self.folder / "analysis" / f"{self.name}.json",
            "report": self.folder / "reports" / self.name / "report.html",
        }
        for command, file in files.items():
            file.unlink(missing_ok=True)
            said = toolkit.run(self.log, command, "--workspace", str(self.folder), "--name", self.name, self.name)
            if not file.is_file():
                text = f"vot {command} wrote no {file} (it says: {_last_line(said)}; log: {self.log})"
                raise VotFailed(f"{self.stack.name}: {text}")
        return list(files.values())


def _last_line(said: str) -> str:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said).replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
