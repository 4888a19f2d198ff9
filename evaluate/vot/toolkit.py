"""VOT's toolkit, a program in an environment of its own: found, known by its version, and run.

It is under the GPL and needs older packages, so it is called as a command and nothing of it is imported.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lorat.evaluate.vot.stacks import ATTRIBUTEE, Stack
from lorat.shards.base.errors import Stopped, UserError, some
from lorat.shards.base.signals import Heard, hear_signals

_VERSIONS = """
import json
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in ("vot-toolkit", "attributee"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        found[name] = ""
print(json.dumps(found))
"""
_A_WHILE, _LONGEST_ANSWER = 0.2, 60.0  # seconds
_LEASH = Path(__file__).with_name("leash.py")


@dataclass(frozen=True, slots=True)
class Toolkit:
    """An installed toolkit."""

    command: Path  # its program ``vot``

    @classmethod
    def find(cls, command: str) -> "Toolkit":
        """Return the toolkit of a command; a `UserError` if there is no such command."""
        if (found := shutil.which(command)) is None:
            raise UserError(f"{command}: no such command; {_how_to_install('0.7.4')}, and name it with --toolkit")
        return cls(Path(found).absolute())

    def check(self, stack: Stack) -> None:
        """Raise a `UserError` that names what to install if this toolkit does not run a stack."""
        python = self.command.resolve().with_name("python")
        if not python.is_file():
            raise UserError(f"{self.command}: no python beside it; {_how_to_install(stack.versions[0])}")
        ask = [str(python), "-I", "-c", _VERSIONS]
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=_LONGEST_ANSWER, check=False)
        if answer.returncode:
            raise UserError(f"{python}: does not start ({answer.stderr}); {_how_to_install(stack.versions[0])}")
        found: dict[str, str] = json.loads(answer.stdout)
        toolkit, attributee = found["vot-toolkit"] or "none", found["attributee"] or "none"
        if toolkit not in stack.versions or attributee != ATTRIBUTEE:
            text = f"{self.command}: vot-toolkit {toolkit} with attributee {attributee}; {stack.name} runs on"
            pins = f"{some(stack.versions)} with attributee {ATTRIBUTEE}"
            raise UserError(f"{text} {pins}; {_how_to_install(stack.versions[0])}")

    def run(self, log: Path, *arguments: str) -> str:
        """Run one of its commands to its end and return what it said, which is added to a log, and shown on a terminal.
        Its exit status says nothing. A `Stopped` after Ctrl-C or SIGTERM. It and its trackers end with this process,
        however that ends.
        """
        said: list[bytes] = []

        def listen(stream: IO[bytes]) -> None:
            with log.open("ab") as file:
                while data := os.read(stream.fileno(), 1 << 16):
                    said.append(data)
                    file.write(data)
                    file.flush()
                    if sys.stderr.isatty():
                        os.write(2, data)

        leash = [sys.executable, "-I", str(_LEASH), str(os.getpid())]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with (
            hear_signals(Heard()) as heard,
            subprocess.Popen([*leash, str(self.command), *arguments], **streams) as process,  # type: ignore[call-overload]
        ):
            listener = threading.Thread(target=listen, args=(process.stdout,))
            listener.start()
            try:
                while listener.is_alive() and not heard.number:
                    listener.join(_A_WHILE)
            finally:
                process.terminate()
                listener.join()
        if heard.number:
            raise Stopped("stopped; what is tracked stands in the workspace, and the same command goes on")
        return b"".join(said).decode("utf-8", "replace")


def _how_to_install(version: str) -> str:
    pins = f"vot-toolkit=={version} attributee=={ATTRIBUTEE}"
    return f"in a virtual environment of its own: pip install {pins}"
