"""LoRATv2's memory: keys and values of the template, and in the second phase of a reference that is renewed.

As published, and meant: the first reference is cut from the first frame; a frame whose score is above a threshold
leaves the next one, around the box that the next search crop is cut around. Each target has a slot of one size in a
cache with room for all, however long its sequence is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorat.configs.schema import MemoryRule, VariantConfig
from lorat.evaluate.track.memory.base import Known, Memory, Recalled, Seen, Size
from lorat.evaluate.track.memory.crops import Box, Crop, Frame
from lorat.evaluate.track.memory.feed import Colour, Feed, TemplateInput
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.blocks.loratv2 import LoRATv2


@dataclass(eq=False, slots=True)
class Held:
    """What is kept of a target beside its slot: crops that the network is to look at, the frame of the next."""

    template: TemplateInput | None
    mean: Colour
    reference: Crop | None
    slot: int = -1  # none yet
    seen: Seen | None = None


class Caches(Memory[Held]):
    """What LoRATv2 remembers."""

    clips = False

    def __init__(self, feed: Feed, room: int) -> None:
        """Make room for so many targets on the network's device."""
        super().__init__(feed, room)
        network = feed.network
        assert isinstance(network, LoRATv2)
        self.memory = torch.empty(room, *network.memory_shape, dtype=feed.memory_dtype, device=feed.device)
        self.length, self.free = network.template_length, list(range(room))
        self.renews, self.threshold = feed.variant.reference_size is not None, feed.variant.reference_threshold

    @classmethod
    def size(cls, network: OneStream, variant: VariantConfig, frames: int, rule: MemoryRule | None) -> Size:
        """Return what a slot takes in float32, and its copy in a batch."""
        assert isinstance(network, LoRATv2)
        return Size(device=2 * 4 * math.prod(network.memory_shape))

    def begin(self, frame: Frame, box: Box, mean: Colour, known: Known) -> Held:
        """Cut the template, and the first reference out of the same frame."""
        reference = self.feed.cut_reference(frame, box, mean) if self.renews else None
        return Held(self.feed.cut_template(frame, box, mean), mean, reference)

    def note(self, kept: Held, seen: Seen) -> None:
        """Keep a frame in which the object was found for sure, until the reference is cut."""
        if self.renews and seen.score > self.threshold:
            kept.seen = seen

    def learn(self, kept: Held) -> None:
        """Cut the next reference."""
        if kept.seen is not None:
            kept.reference = self.feed.cut_reference(kept.seen.frame, kept.seen.last, kept.mean)
            kept.seen = None

    def take(self, kept: Sequence[Held]) -> None:
        """Write keys and values of new templates and references into the slots."""
        with torch.inference_mode():
            if new := [(held, held.template) for held in kept if held.template is not None]:
                for held, _ in new:
                    held.slot, held.template = self.free.pop(), None
                slots = self._slots([held for held, _ in new])
                self.memory[slots, ..., : self.length, :] = self.feed.embed([template for _, template in new])
            if renewed := [(held, held.reference) for held in kept if held.reference is not None]:
                for held, _ in renewed:
                    held.reference = None
                slots = self._slots([held for held, _ in renewed])
                known, crops = self.memory[slots, ..., : self.length, :], self.feed.images([c for _, c in renewed])
                self.memory[slots] = self.feed.engine.remember_reference(known, crops)

    def recall(self, kept: Sequence[Held]) -> Recalled:
        """Return the slots' keys and values."""
        self.take(kept)
        return Recalled(self.memory[self._slots(kept)], None)

    def forget(self, kept: Held) -> None:
        """Give the slot back."""
        self.free.append(kept.slot)

    def _slots(self, kept: Sequence[Held]) -> torch.Tensor:
        return torch.tensor([held.slot for held in kept], device=self.feed.device)
