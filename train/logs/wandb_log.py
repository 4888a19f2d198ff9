"""A training's numbers on wandb.ai, or in files that ``wandb sync`` sends there later.

Promise: nothing is sent unless ``--wandb online`` says so; a resumed run goes on under the id that stands in its
folder; whatever goes wrong with wandb is said once, and the training goes on without it.
"""

import logging
import os
import secrets
import subprocess
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lorat.shards.base.storage import atomic_file
from lorat.train.logs.log import Listener
from lorat.train.logs.result import read_best

_PATIENCE = "30"  # seconds that an answer of the server is waited for at the start
# For the last records: else a server that is gone keeps the training from ending. ``wandb sync`` sends what did not.
_LAST_PATIENCE = 300.0
_LOG = logging.getLogger("lorat")


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What wandb is told of a run before its first record."""

    config: Mapping[str, Any]
    batch_size: int
    tags: Sequence[str] = ()
    summary: Mapping[str, float] = field(default_factory=dict)  # what is known of the network


def has_key() -> bool:
    """Return whether an API key is configured, where ``wandb login`` or the user puts it."""
    from requests.utils import get_netrc_auth  # wandb brings it

    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY")) or get_netrc_auth(server) is not None


def run_id(folder: Path) -> str:
    """Return the id of a run folder, which gets one if it has none: that of ``WANDB_RUN_ID``, as a sweep sets it, or a
    new one.
    """
    path = folder / "wandb_id.txt"
    if path.is_file() and (known := path.read_text(encoding="utf-8").strip()):
        return known
    # Not from a generator that a training is seeded with.
    new = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
    with atomic_file(path) as file:
        file.write(f"{new}\n".encode())
    return new


def code_version() -> str | None:
    """Return what git calls the state of this code, ``-dirty`` at its end where files differ; None without git."""
    file = Path(__file__).resolve()
    git = ("git", "-C", str(file.parent))
    try:
        # An installed copy may lie in a repository of somebody else.
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], check=True, capture_output=True, timeout=10)
        asked = [*git, "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(asked, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@contextmanager
def wandb_run(folder: Path, mode: str, about: About) -> Iterator[Listener | None]:
    """Open the run there and yield what tells it of records; None where there is no run. Its mode is ``online``,
    ``offline`` or ``off``; without a key, or where the server does not answer, ``online`` becomes ``offline``.
    """
    failed = mode == "off"

    def guarded(what: str, call: Callable[..., Any], *args: Any) -> Any:
        """Say a failure once; nothing is called from then on."""
        nonlocal failed
        try:
            return None if failed else call(*args)
        except Exception as error:  # noqa: BLE001  # no failure of wandb may end a training
            failed = True
            with suppress(Exception):  # else what is left of its service is heard of again when the process ends
                _teardown()
            _LOG.warning("wandb: %s failed (%s); the training goes on without it", what, _reason(error))

    def tell(step: int, values: Mapping[str, Any]) -> None:
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        guarded("a record", run.log, {"step": step, "pairs": step * about.batch_size, **numbers})

    def finish(exit_code: int) -> None:
        if best := read_best(folder):
            run.summary.update({f"best/{best.measure}": best.score, "best/epoch": best.epoch})
        run.finish(exit_code=exit_code)

    run = guarded("the start", _open, folder, mode == "online", about)
    try:
        yield None if failed else tell
    except BaseException:
        guarded("the end", finish, 1)
        raise
    guarded("the end", finish, 0)


def _open(folder: Path, online: bool, about: About) -> Any:
    import wandb

    quiet: dict[str, Any] = {"silent": True, "console": "off", "disable_code": True, "disable_git": True}
    quiet["init_timeout"] = float(os.environ.get("WANDB_INIT_TIMEOUT", _PATIENCE))
    if "finish_timeout" in getattr(wandb.Settings, "model_fields", {}):  # older releases have no limit for the end
        quiet["finish_timeout"] = _LAST_PATIENCE
    known: dict[str, Any] = {"name": folder.name, "id": run_id(folder), "resume": "allow", "job_type": "train"}
    known["project"] = os.environ.get("WANDB_PROJECT", "lorat")
    known["group"] = os.environ.get("WANDB_RUN_GROUP", folder.name)
    tags = dict.fromkeys((*about.tags, *filter(None, os.environ.get("WANDB_TAGS", "").split(","))))
    known |= {"dir": str(folder), "config": dict(about.config), "tags": list(tags)}

    def start(mode: Literal["online", "offline"]) -> Any:
        settings = wandb.Settings(**quiet)
        wandb.setup(settings=settings)  # before, or it tells where it found the key
        return wandb.init(mode=mode, settings=settings, **known)

    run, why = None, ""
    if online and not has_key():
        why = "no API key (wandb login); "
    elif online:
        try:
            run = start("online")
        except (wandb.Error, OSError) as error:
            why = f"no connection ({_reason(error)}); "
            _teardown()  # its service holds the id of the run that did not start
    if run is None:
        run = start("offline")
        level = logging.WARNING if why else logging.INFO
        _LOG.log(level, "wandb: %ssend the run later with: wandb sync %s", why, Path(run.dir).parent)
    # Steps that are done again after a resume are drawn over those before.
    run.define_metric("*", step_metric="step")
    run.summary.update(dict(about.summary))
    return run


def _teardown() -> None:
    import wandb

    wandb.teardown()


def _reason(error: Exception) -> str:
    """Return what went wrong as a part of a line: a proxy's answer may be a page."""
    return textwrap.shorten((str(error) or type(error).__name__).splitlines()[0], 120, placeholder="…")
