"""What every method of tracking has in common: how targets are remembered from frame to frame.

A frame goes this way: `recall` gives the network what the batch's targets left; `note` takes what the frame showed;
`learn`, before the next frame's crop, cuts out of it what is to be kept; and `take` lets the network look at that.
Crops are cut in any thread, one at a time for a target; the network works in one.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from lorat.configs.schema import MemoryRule, VariantConfig
from lorat.evaluate.track.memory.crops import Box, Frame
from lorat.evaluate.track.memory.feed import Colour, Feed
from lorat.train.network.blocks.lorat import OneStream

Kept = TypeVar("Kept")


class Recalled(NamedTuple):
    """What goes into a batch beside its search crops, as `OneStream.follow` takes it."""

    memory: Tensor  # (B, …)
    state: Tensor | None  # (B, …) of the frame before; None for methods that carry none


class Seen(NamedTuple):
    """A frame after it was tracked."""

    frame: Frame
    box: Box  # cut at the frame, perhaps without area
    last: Box  # that the next search crop is cut around
    score: float
    state: Tensor | None  # (…) as the network gave it


class Known(NamedTuple):
    """What is known of a sequence when it begins, as far as it is."""

    frames: int | None = None  # that it has at most
    rule: MemoryRule | None = None  # by which SPMTrack looks at templates, if not the variant's


UNKNOWN = Known()


class Size(NamedTuple):
    """Bytes that a target takes beside its frames and a batch's work."""

    host: int = 0
    device: int = 0


class Memory(ABC, Generic[Kept]):
    """What a method remembers of up to `room` targets at once, of each an object that it keeps."""

    clips = True
    """Whether a box is cut at the frame before it is reported; the last box always is."""

    def __init__(self, feed: Feed, room: int) -> None:
        """Make room for so many targets."""
        self.feed = feed

    @classmethod
    def size(cls, network: OneStream, variant: VariantConfig, frames: int, rule: MemoryRule | None) -> Size:
        """Return the most that a target of a sequence of so many frames takes; `rule` as `Known` has it."""
        return Size()

    @abstractmethod
    def begin(self, frame: Frame, box: Box, mean: Colour, known: Known) -> Kept:
        """Cut what is to be kept of a target's first frame."""

    @abstractmethod
    def take(self, kept: Sequence[Kept]) -> None:
        """Let the network look at what was cut for targets."""

    @abstractmethod
    def recall(self, kept: Sequence[Kept]) -> Recalled:
        """Return what goes into a batch of targets, once the network has taken all that was cut for them."""

    def note(self, kept: Kept, seen: Seen) -> None:
        """Note what a frame showed of a target."""

    def learn(self, kept: Kept) -> None:
        """Cut what is to be kept of the frame that was noted last."""

    def forget(self, kept: Kept) -> None:
        """Free what an ended target held."""
