"""The toolkit's experiment stacks that a tracker of boxes can run, and the versions of the toolkit that run them."""

from typing import Literal, NamedTuple

from lorat.shards.base.errors import unknown

Kind = Literal["multistart", "unsupervised", "multiobject"]
Region = Literal["rectangle", "mask"]
_OLD, _NEW = "0.7.4", "0.9.0"
ATTRIBUTEE = "0.1.9"  # with the next version, vot-toolkit does not import on Python 3.11 and newer


class Stack(NamedTuple):
    """An experiment stack of the toolkit."""

    name: str
    kind: Kind  # of its baseline; multistart: from many anchors, forwards and backwards
    region: Region  # of its ground truth; the toolkit turns masks into the boxes around them
    versions: tuple[str, ...]  # of vot-toolkit that run it, the recommended one first
    scored: bool  # whether it computes scores; where ground truth is hidden, the challenge's server does


# Stacks of other kinds are left out: several channels (rgbd, rgbtir), first regions that are points or words.
_ALL = (
    Stack("vot2020/shortterm", "multistart", "mask", (_OLD,), True),
    Stack("vot2021/shortterm", "multistart", "mask", (_OLD,), True),
    Stack("vot2022/shortterm", "multistart", "mask", (_OLD,), True),
    Stack("vot2022/shorttermbox", "multistart", "rectangle", (_OLD,), True),
    Stack("vots2023", "multiobject", "mask", (_OLD, _NEW), False),
    Stack("vots2024/main", "multiobject", "mask", (_OLD, _NEW), False),
    Stack("vots2025/main", "multiobject", "mask", (_OLD, _NEW), False),
    Stack("vots2025/realtime", "multiobject", "mask", (_OLD,), False),
    Stack("vots2026/main", "multiobject", "mask", (_NEW,), False),
    Stack("tests/basic", "unsupervised", "rectangle", (_OLD, _NEW), False),
    Stack("tests/multiobject", "multiobject", "mask", (_OLD, _NEW), True),
)
STACKS = {stack.name: stack for stack in _ALL}


def find_stack(name: str) -> Stack:
    """Return the stack of a name; a `UserError` for another."""
    if name not in STACKS:
        raise unknown("stack", name, STACKS)
    return STACKS[name]
