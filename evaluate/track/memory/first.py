"""LoRAT's memory: the first template, as it was."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorat.evaluate.track.memory.base import Known, Memory, Recalled
from lorat.evaluate.track.memory.crops import Box, Frame
from lorat.evaluate.track.memory.feed import Colour, TemplateInput


@dataclass(eq=False, slots=True)
class First:
    """A target's template, and once the network has looked at it its tokens (T, D)."""

    template: TemplateInput | None
    tokens: Tensor | None = None


class FirstTemplate(Memory[First]):
    """What LoRAT remembers."""

    def begin(self, frame: Frame, box: Box, mean: Colour, known: Known) -> First:
        """Cut the template."""
        return First(self.feed.cut_template(frame, box, mean))

    def take(self, kept: Sequence[First]) -> None:
        """Turn the templates of new targets into tokens."""
        if new := [(first, first.template) for first in kept if first.template is not None]:
            for (first, _), tokens in zip(new, self.feed.embed([template for _, template in new]), strict=True):
                first.template, first.tokens = None, tokens

    def recall(self, kept: Sequence[First]) -> Recalled:
        """Return the tokens of all templates."""
        self.take(kept)
        return Recalled(torch.stack([first.tokens for first in kept if first.tokens is not None]), None)
