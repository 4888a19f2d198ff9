"""SPMTrack's memory: templates from all frames of a sequence, three of which go into each, and the state token.

As published: every frame, however sure, leaves the crop around its box and a mask, and those that are looked at follow
from their number alone. Published code keeps all crops until an evaluation ends; here those go that the rule can never
choose again. Where a sequence's length is not known, which may be days, the rest is thinned evenly to `MOST_ENTRIES`,
and the nearest one left is looked at. Crops are held in 16 bits a value, which moves them by at most 1/512 of a grey
level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorat.configs.schema import MemoryRule as Rule
from lorat.configs.schema import VariantConfig
from lorat.evaluate.track.memory.base import Known, Memory, Recalled, Seen, Size
from lorat.evaluate.track.memory.crops import Box, Frame
from lorat.evaluate.track.memory.feed import Colour, Feed, TemplateInput, mean_colour
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.lorat import OneStream

_STEPS = 256  # of a grey level
PUBLISHED_RULES: Mapping[str, Mapping[str, Rule]] = {"spmtrack-B-378": {"lasot": "third"}}
"""Of variants, on data sets where it is not the variant's own."""
MOST_ENTRIES = 256  # of a target whose sequence's length is not known


def published_rules(variant: VariantConfig) -> Mapping[str, Rule]:
    """Return the rules that published code has for a variant on some data sets, by their names."""
    return PUBLISHED_RULES.get(variant.name, {})


def chosen(count: int, rule: Rule) -> tuple[int, int, int]:
    """Return which of `count` entries, the first frame's and one of each tracked frame, are looked at: the first, and
    those at about a quarter and three quarters (published), or at one and two thirds (published for B-378 on LaSOT).
    """
    if count < 4:
        return ((0, 0, 0), (0, 1, 1), (0, 1, 2))[count - 1]
    if rule == "third":
        return 0, count // 3, 2 * count // 3
    half = count // 2
    return 0, half // 2, half + half // 2


class Entry(NamedTuple):
    """A template in the memory."""

    crop: NDArray[np.uint16]  # (S, S, 3) in steps of a grey level
    mask: NDArray[np.bool_]  # (g, g)

    @classmethod
    def of(cls, template: TemplateInput) -> "Entry":
        """Return a template in the form in which it is held."""
        return cls(np.rint(template.crop * _STEPS).astype(np.uint16), template.mask)

    def template(self) -> TemplateInput:
        """Return the template as the network takes it."""
        return TemplateInput(self.crop * np.float32(1.0 / _STEPS), self.mask)


@dataclass(eq=False, slots=True)
class Album:
    """What is kept of a target."""

    rule: Rule
    frames: int | None  # of its sequence, if that is known
    entries: dict[int, Entry]  # by number, of `count` that there were
    state: Tensor  # (1, D) float32
    count: int = 1
    apart: int = 1  # the entries that are held, where they were thinned
    tokens: dict[int, Tensor] = field(default_factory=dict)  # (T, D) of the entries that are looked at now
    seen: Seen | None = None

    def looked_at(self) -> tuple[int, ...]:
        """Return the numbers of the three entries that are looked at: those held that are nearest to the rule's."""
        return tuple(
            number if number in self.entries else min(self.entries, key=lambda held: abs(held - number))
            for number in chosen(self.count, self.rule)
        )

    def add(self, entry: Entry) -> None:
        """Add the entry of a frame, and drop those that will not be looked at any more."""
        self.entries[self.count] = entry
        self.count += 1
        _, early, late = self.looked_at()
        left = 0 if self.frames is None else self.frames - self.count  # less than 1 too where there are more than said
        latest = chosen(self.count + left - 1, self.rule)[1] if left > 0 else self.count
        wanted = {n: e for n, e in self.entries.items() if n == 0 or early <= n <= latest or n >= late}
        while True:
            self.entries = {n: e for n, e in wanted.items() if n % self.apart == 0 or n == self.count - 1}
            if left > 0 or len(self.entries) <= MOST_ENTRIES:
                break
            self.apart *= 2


class Templates(Memory[Album]):
    """What SPMTrack remembers."""

    def __init__(self, feed: Feed, room: int) -> None:
        """Remember by the rule of the variant."""
        super().__init__(feed, room)
        self.rule = feed.variant.memory_rule
        if feed.variant.templates != 3:
            what = f"templates {feed.variant.templates}, but the rule of SPMTrack's memory chooses 3"
            raise UserError(f"variant {feed.variant.name}: {what}; set 3")

    @classmethod
    def size(cls, network: OneStream, variant: VariantConfig, frames: int, rule: Rule | None) -> Size:
        """Return what the templates take that a sequence is left with."""
        entry = 3 * 2 * variant.template_size**2 + network.template_grid**2
        return Size(host=entry * (4 + chosen(frames, rule or variant.memory_rule)[1]))

    def begin(self, frame: Frame, box: Box, mean: Colour, known: Known) -> Album:
        """Begin with the first template alone and a fresh state."""
        first = Entry.of(self.feed.cut_template(frame, box, mean))
        state = torch.zeros(1, self.feed.network.plan.width, device=self.feed.device)
        return Album(known.rule or self.rule, known.frames, {0: first}, state)

    def note(self, kept: Album, seen: Seen) -> None:
        """Take over the state, and keep the frame until its template is cut."""
        assert seen.state is not None
        kept.seen, kept.state = seen, seen.state

    def learn(self, kept: Album) -> None:
        """Add a template around the box of the frame, as it was reported; one past a corner has no sides at all to cut
        around, so that the last entry is repeated.
        """
        if kept.seen is not None:
            frame, box = kept.seen.frame, kept.seen.box
            entry = kept.entries[kept.count - 1]
            if (box[2:] > box[:2]).any():
                entry = Entry.of(self.feed.cut_template(frame, box, mean_colour(frame)))
            kept.add(entry)
            kept.seen = None

    def take(self, kept: Sequence[Album]) -> None:
        """Turn templates that are newly chosen into tokens, and forget those of others."""
        new = list[tuple[Album, int]]()
        for album in kept:
            now = set(album.looked_at())
            album.tokens = {number: tokens for number, tokens in album.tokens.items() if number in now}
            new += [(album, number) for number in sorted(now - album.tokens.keys())]
        if new:
            rows = self.feed.embed([album.entries[number].template() for album, number in new])
            for (album, number), tokens in zip(new, rows, strict=True):
                album.tokens[number] = tokens.clone()  # a part would keep the whole

    def recall(self, kept: Sequence[Album]) -> Recalled:
        """Return the tokens of three templates each, one after another, and the states."""
        self.take(kept)
        memory = [torch.cat([album.tokens[number] for number in album.looked_at()]) for album in kept]
        return Recalled(torch.stack(memory), torch.stack([album.state for album in kept]))
