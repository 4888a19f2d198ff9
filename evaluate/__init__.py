"""Raw sequence trees become boxes, and boxes become metrics, pictures and submissions.

`Tracker` is the whole of it for one's own programs; nothing is imported before it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorat.evaluate.track.judge import Judge as Judge
    from lorat.evaluate.track.tracker import TrackedBox as TrackedBox
    from lorat.evaluate.track.tracker import Tracker as Tracker

__all__ = ["Judge", "TrackedBox", "Tracker"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lorat.evaluate.track import tracker  # torch takes seconds to import

    return getattr(tracker, name)
