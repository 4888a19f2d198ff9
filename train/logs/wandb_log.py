"""A training's numbers on wandb.ai, or in files that ``wandb sync`` sends there later.

Promise: nothing is asked and nothing is sent unless ``--wandb online`` says so; a resumed run goes
on under the id that stands in its folder; whatever goes wrong with wandb is said once, and the
training goes on without it.
"""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lorat.shards.base.storage import atomic_file
from lorat.train.logs.log import Listener

__all__ = ["WandbRun", "has_key", "run_id", "wandb_run"]

_ID = "wandb_id.txt"
_PATIENCE = 30.0
"""Seconds that an answer of the server is waited for at the start."""
_LAST_PATIENCE = 300.0
"""Seconds that the last records may take to arrive; without a limit, a server that is gone would
keep the training from ending. ``wandb sync`` sends what did not."""
_SERVER = "https://api.wandb.ai"
_LOG = logging.getLogger("lorat")


@dataclass(frozen=True, slots=True)
class WandbRun:
    """What a run is called and described by there."""

    folder: Path
    """Of the run."""
    mode: str
    """``online``, ``offline`` or ``off``."""
    config: Mapping[str, Any]
    batch_size: int
    """Pairs a step, for the axis of pairs."""


class _Guarded:
    """Calls that say a failure once and are left out from then on."""

    def __init__(self) -> None:
        self._failed = False

    def __call__(self, what: str, call: Callable[[], Any]) -> Any:
        if self._failed:
            return None
        try:
            return call()
        except Exception as error:  # noqa: BLE001  # no failure of wandb may end a training
            self._failed = True
            reason = (str(error) or type(error).__name__).splitlines()[0]
            _LOG.warning("wandb: %s failed (%s); the training goes on without it", what, reason)
            return None


def has_key() -> bool:
    """Return whether an API key is configured, where ``wandb login`` or the user puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", _SERVER)).hostname or ""
    home = Path(os.environ.get("HOME", "~")).expanduser()
    for path in (os.environ.get("NETRC"), home / ".netrc", home / "_netrc"):
        try:
            if path and netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def run_id(folder: Path) -> str:
    """Return the id of a run folder, which gets one if it has none."""
    path = folder / _ID
    if path.is_file() and (known := path.read_text(encoding="utf-8").strip()):
        return known
    new = secrets.token_hex(4)  # not from a generator that a training is seeded with
    with atomic_file(path) as file:
        file.write(f"{new}\n".encode())
    return new


@contextmanager
def wandb_run(about: WandbRun) -> Iterator[Listener | None]:
    """Open the run there and yield what tells it of records; None where the mode is ``off``.

    Without a key ``online`` becomes ``offline``, and so it does where the server does not answer.
    """
    if about.mode == "off":
        yield None
        return
    online = about.mode == "online"
    if online and not has_key():
        _LOG.info("wandb: no API key (wandb login); writing files for wandb sync instead")
        online = False
    guarded = _Guarded()
    run = guarded("the start", lambda: _open(about, online))
    if run is None:
        yield None
        return

    def tell(step: int, values: Mapping[str, Any]) -> None:
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        entry = {"step": step, "pairs": step * about.batch_size, **numbers}
        guarded("a record", lambda: run.log(entry))

    try:
        yield tell
    except BaseException:
        guarded("the end", lambda: run.finish(exit_code=1))
        raise
    guarded("the end", run.finish)


def _open(about: WandbRun, online: bool) -> Any:
    import wandb

    if online:
        try:
            return _start(about, "online")
        except (wandb.Error, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            _LOG.warning("wandb: no connection (%s); writing files for wandb sync", reason)
    run = _start(about, "offline")
    _LOG.info("wandb: send the run with: wandb sync %s", Path(run.dir).parent)
    return run


def _start(about: WandbRun, mode: Literal["online", "offline"]) -> Any:
    import wandb

    # Older releases have no limit for the end.
    known = "finish_timeout" in getattr(wandb.Settings, "model_fields", {})
    limit: dict[str, Any] = {"finish_timeout": _LAST_PATIENCE} if known else {}
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        init_timeout=_PATIENCE,
        **limit,
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "lorat"),
        id=run_id(about.folder),
        name=about.folder.name,
        dir=str(about.folder),
        config=dict(about.config),
        job_type="train",
        mode=mode,
        resume="allow",
        settings=settings,
    )
    # Steps that are done again after a resume are drawn over those before.
    run.define_metric("*", step_metric="step")
    return run
