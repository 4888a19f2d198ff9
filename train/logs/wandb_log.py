"""A training's numbers on wandb.ai, or in files that ``wandb sync`` sends there later.

Promise: nothing is sent unless ``--wandb online`` says so; a resumed run goes on under the id that stands in its
folder; whatever goes wrong with wandb is said once, and the training goes on without it.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lorat.shards.base.storage import atomic_file
from lorat.train.logs.log import Listener

_PATIENCE = 30.0  # seconds that an answer of the server is waited for at the start
# For the last records: else a server that is gone keeps the training from ending. ``wandb sync`` sends what did not.
_LAST_PATIENCE = 300.0
_LOG = logging.getLogger("lorat")


def has_key() -> bool:
    """Return whether an API key is configured, where ``wandb login`` or the user puts it."""
    from requests.utils import get_netrc_auth  # wandb brings it

    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY")) or get_netrc_auth(server) is not None


def run_id(folder: Path) -> str:
    """Return the id of a run folder, which gets one if it has none."""
    path = folder / "wandb_id.txt"
    if path.is_file() and (known := path.read_text(encoding="utf-8").strip()):
        return known
    new = secrets.token_hex(4)  # not from a generator that a training is seeded with
    with atomic_file(path) as file:
        file.write(f"{new}\n".encode())
    return new


@contextmanager
def wandb_run(folder: Path, mode: str, config: Mapping[str, Any], batch_size: int) -> Iterator[Listener | None]:
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
            _LOG.warning("wandb: %s failed (%s); the training goes on without it", what, _reason(error))

    def tell(step: int, values: Mapping[str, Any]) -> None:
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        guarded("a record", run.log, {"step": step, "pairs": step * batch_size, **numbers})

    run = guarded("the start", _open, folder, mode == "online", config)
    try:
        yield None if failed else tell
    except BaseException:
        guarded("the end", lambda: run.finish(exit_code=1))
        raise
    guarded("the end", lambda: run.finish())


def _open(folder: Path, online: bool, config: Mapping[str, Any]) -> Any:
    import wandb

    quiet: dict[str, Any] = {"silent": True, "console": "off", "disable_code": True, "disable_git": True}
    if "finish_timeout" in getattr(wandb.Settings, "model_fields", {}):  # older releases have no limit for the end
        quiet["finish_timeout"] = _LAST_PATIENCE
    about: dict[str, Any] = {"project": os.environ.get("WANDB_PROJECT", "lorat"), "name": folder.name}
    about |= {"dir": str(folder), "id": run_id(folder), "resume": "allow", "job_type": "train", "config": dict(config)}
    start = partial(wandb.init, settings=wandb.Settings(init_timeout=_PATIENCE, **quiet), **about)
    run = None
    if online and not has_key():
        _LOG.info("wandb: no API key (wandb login); writing files for wandb sync instead")
    elif online:
        try:
            run = start(mode="online")
        except (wandb.Error, OSError) as error:
            _LOG.warning("wandb: no connection (%s); writing files for wandb sync", _reason(error))
    if run is None:
        run = start(mode="offline")
        _LOG.info("wandb: send the run with: wandb sync %s", Path(run.dir).parent)
    # Steps that are done again after a resume are drawn over those before.
    run.define_metric("*", step_metric="step")
    return run


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
