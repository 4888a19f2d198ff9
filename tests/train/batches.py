"""Batches of the tiny variant, made up and compared, and an optimiser that notes gradients."""

from collections.abc import Iterable

import numpy as np
import torch

from lorat.shards.cache.cache import open_shard
from lorat.shards.manifest import Manifest
from lorat.shards.reader import read_index
from lorat.train.data.batches import Batch

TENSORS = ("template", "search", "template_mask", "positive", "box", "position", "missing", "reference")


def joined(parts: list[Batch]) -> dict[str, torch.Tensor]:
    held = [name for name in TENSORS if getattr(parts[0], name) is not None]
    return {name: torch.cat([getattr(part, name) for part in parts]) for name in held}


def keys_of(parts: list[Batch]) -> list[str]:
    return [key for part in parts for key in part.keys]


def damaged_in(parts: list[Batch]) -> list[tuple[str, ...]]:
    return [messages for part in parts for messages in part.damaged]


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    """The pairs are, one by one, however they are cut into batches."""
    assert keys_of(first) == keys_of(second)
    assert damaged_in(first) == damaged_in(second)
    there = joined(second)
    for name, tensor in joined(first).items():
        assert torch.equal(tensor, there[name]), name


def damage(manifest: Manifest, shard: int, rows: Iterable[int]) -> dict[str, str]:
    """Flip a bit of each row; return what errors must call it, by key."""
    path = manifest.folder / manifest.shards[shard].shard
    index, data = read_index(path), bytearray(path.read_bytes())
    reader = open_shard(manifest, shard)
    keys = [reader.read(row).key for row in rows]
    reader.close()
    names = {}
    for row, key in zip(rows, keys, strict=True):
        offset = int(index[row]["offset"])
        data[offset + int(index[row]["length"]) // 2] ^= 4
        names[key] = f"{path} row {row} ({key}) at byte {offset}: not the bytes that were written"
    path.write_bytes(data)
    return names


def made_up_batch(seed: int = 1, empty: int = 4) -> Batch:
    """Eight pairs, of which the first few have no object."""
    rng = torch.Generator().manual_seed(seed)
    positive = torch.rand(8, 1, 4, 4, generator=rng) > 0.6
    positive[:empty] = False
    corner = torch.rand(8, 1, 2, generator=rng) / 2
    return Batch(
        template=torch.randint(0, 256, (8, 1, 3, 32, 32), generator=rng, dtype=torch.uint8),
        search=torch.randint(0, 256, (8, 1, 3, 64, 64), generator=rng, dtype=torch.uint8),
        template_mask=torch.rand(8, 1, 2, 2, generator=rng) > 0.5,
        positive=positive,
        box=torch.cat([corner, corner + 0.4], dim=-1),
        position=torch.arange(8),
        missing=torch.zeros(8),
        reference=None,
        keys=tuple(map(str, range(8))),
        damaged=((),) * 8,
        seconds=np.zeros((8, 2), dtype=np.float32),
    )


class Recorder(torch.optim.SGD):
    """Keeps the gradients that it is given and moves nothing."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        super().__init__([p for _, p in self.named], lr=0.0)
        self.seen: list[dict[str, torch.Tensor]] = []

    def step(self) -> None:
        self.seen.append({name: p.grad.clone() for name, p in self.named})
