"""Which memory a method has."""

from typing import Any

from lorat.configs.schema import MemoryRule, VariantConfig
from lorat.evaluate.track.memory.base import Memory, Size
from lorat.evaluate.track.memory.caches import Caches
from lorat.evaluate.track.memory.feed import Feed
from lorat.evaluate.track.memory.first import FirstTemplate
from lorat.evaluate.track.memory.templates import Templates
from lorat.train.network.blocks.lorat import OneStream

_MEMORIES: dict[str, type[Memory[Any]]] = {"lorat": FirstTemplate, "spmtrack": Templates, "loratv2": Caches}


def target_size(network: OneStream, variant: VariantConfig, frames: int, rule: MemoryRule | None = None) -> Size:
    """Return what a target of a sequence of so many frames takes at most; `rule` as `Known` has it."""
    return _MEMORIES[variant.method].size(network, variant, frames, rule)


def memory_for(feed: Feed, room: int) -> Memory[Any]:
    """Return an empty memory of up to so many targets, as the variant's method has it."""
    return _MEMORIES[feed.variant.method](feed, room)
