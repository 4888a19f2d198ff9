"""The toolkit's experiment stacks that a tracker of boxes can run, and the versions of the toolkit that run them."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lorat.shards.base.disk import explain_reading
from lorat.shards.base.errors import UserError, unknown

_OLD, _NEW = "0.7.4", "0.9.0"
ATTRIBUTEE = "0.1.9"  # with the next version, vot-toolkit does not import on Python 3.11 and newer


class Stack(NamedTuple):
    """An experiment stack of the toolkit."""

    name: str  # as the toolkit's configuration has it: its own, or the path of a file
    versions: tuple[str, ...]  # of vot-toolkit that run it, the recommended one first
    scored: bool  # whether it computes scores; where ground truth is hidden, the challenge's server does


_ALL = (
    Stack("vot2020/shortterm", (_OLD,), True),
    Stack("vot2021/shortterm", (_OLD,), True),
    Stack("vot2022/shortterm", (_OLD,), True),
    Stack("vot2022/shorttermbox", (_OLD,), True),
    Stack("vots2023", (_OLD, _NEW), False),
    Stack("vots2024/main", (_OLD, _NEW), False),
    Stack("vots2024/votst", (_OLD, _NEW), False),
    Stack("vots2024/votstval", (_OLD, _NEW), True),
    Stack("vots2025/main", (_OLD, _NEW), False),
    Stack("vots2025/votst", (_OLD, _NEW), False),
    Stack("vots2025/votstval", (_OLD, _NEW), True),
    Stack("vots2025/realtime", (_OLD,), False),
    Stack("vots2026/main", (_NEW,), False),
    Stack("tests/basic", (_OLD, _NEW), False),
    Stack("tests/multiobject", (_OLD, _NEW), True),
)
STACKS = {stack.name: stack for stack in _ALL}
_POINTS, _WORDS = "its tracks begin with points", "its tracks begin with words"
_CHANNELS = "its frames have several channels"
_NOT_OFFERED = {
    **{"vots2026/point": _POINTS, "vots2026/referral": _WORDS, "vot2022/depth": "its frames are depth alone"},
    **dict.fromkeys(("vot2019/rgbd", "vot2020/rgbd", "vot2021/rgbd", "vot2022/rgbd"), _CHANNELS),
    **dict.fromkeys(("vot2019/rgbtir", "vot2020/rgbtir"), _CHANNELS),
}


def find_stack(name: str) -> Stack:
    """Return the stack of a name, or of a YAML file as the toolkit reads it; a `UserError` for another, or one whose
    tracks a tracker of boxes cannot begin.
    """
    if name.endswith((".yaml", ".yml")):
        return _read_stack(Path(name).absolute())
    if name in _NOT_OFFERED:
        raise UserError(f"{name}: not offered, since {_NOT_OFFERED[name]}; offered are {', '.join(STACKS)}")
    if name not in STACKS:
        raise unknown("stack", name, STACKS)
    return STACKS[name]


def _read_stack(path: Path) -> Stack:
    """Return the stack of a file. The toolkit turns first masks into the boxes around them, whatever it holds."""
    with explain_reading(path):
        text = path.read_text("utf-8")
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: no YAML ({' '.join(str(error).split())}); correct it") from None
    experiments = read.get("experiments") if isinstance(read, dict) else None
    if not isinstance(experiments, dict) or not all(isinstance(each, dict) for each in experiments.values()):
        raise UserError(f"{path}: no experiments with names; write it as the toolkit's stacks are")
    every: list[dict[str, Any]] = list(experiments.values())
    if odd := {str(each.get("type")) for each in every} - {"multistart", "unsupervised"}:
        raise UserError(
            f"{path}: experiments of type {', '.join(sorted(odd))}; offered are multistart and unsupervised"
        )
    old_only = any(each["type"] == "multistart" or each.get("realtime") for each in every)
    scored = any(each.get("analyses") for each in every)
    return Stack(str(path), (_OLD,) if old_only else (_OLD, _NEW), scored)
