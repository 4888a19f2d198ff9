"""What ends a training that goes wrong: numbers that are not finite, memory that is not enough.

Promise: from the first step whose loss or gradient is not finite no weight changes any more, and nothing waits for the
device until somebody looks. That step is kept as a folder (safetensors and JSON) that ``lorat-train --replay`` reads.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor

from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.storage import atomic_folder, write_json
from lorat.train.data.batches import Batch, make_loader
from lorat.train.data.places import Source
from lorat.train.distributed.world import World, mean_over_ranks, texts_of_ranks
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.trained import save_weights
from lorat.train.network.weights.containers import write_tensors

DUMP = "fault.json"
TENSORS = ("template", "search", "template_mask", "positive", "box", "position", "missing", "reference")
_LOADER = "a loader process"
_READS_FLAG = ("cpu", "cuda")  # whose fused AdamW leaves an update out where a flag says so; Metal's does not look


class Fault(NamedTuple):
    """The first step that was not finite."""

    step: int  # counted from 0 over the run; people are told ``step + 1``, as in the log
    losses: tuple[float, ...]  # of each rank
    norm: float  # of the gradient of all ranks

    @property
    def suspects(self) -> list[int]:
        """The ranks whose loss is not finite; all where every loss is."""
        ranks = range(len(self.losses))
        return [r for r in ranks if not math.isfinite(self.losses[r])] or list(ranks)


@dataclass(frozen=True, slots=True)
class Scene:
    """What a step is made of, but for its weights."""

    run: Path
    variant: VariantConfig
    recipe: RecipeConfig
    source: Source
    dtype: torch.dtype  # of autocast
    world: World

    @property
    def number_type(self) -> str:
        """Of autocast, as recipes call it."""
        return str(self.dtype).removeprefix("torch.")


class FaultRecord(BaseModel):
    """What ``fault.json`` holds of a step that was kept."""

    version: Literal[2] = 2  # in 1, a batch had one template and one search crop a sample
    step: int
    ranks: int
    suspects: list[int]
    losses: list[str]  # of each rank; JSON has no NaN
    norm: str
    seed: int
    device: str
    dtype: str
    keys: tuple[str, ...]
    variant: VariantConfig
    recipe: RecipeConfig


class Watch:
    """Remembers the first step whose loss or gradient is not finite, on the device."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._first = torch.tensor(-1, dtype=torch.int64, device=world.device)
        self._seen = torch.zeros(2, device=world.device)

    def see(self, step: int, loss: Tensor, norm: Tensor) -> Tensor:
        """Return 1 (float32) where a step's update must be left out, from the first bad one on, else 0. All are
        scalars: the loss is of this rank, the norm and what is returned are the same on all ranks.
        """
        bad = ~(loss.isfinite() & norm.isfinite())
        new = (mean_over_ranks(bad.float(), self._world) > 0) & (self._first < 0)
        self._first = torch.where(new, step, self._first)
        self._seen = torch.where(new, torch.stack([loss, norm]).float(), self._seen)
        return (self._first >= 0).float()

    @property
    def tripped(self) -> bool:
        """Whether a step was bad; waits for the device."""
        return int(self._first) >= 0

    def look(self) -> Fault | None:
        """Wait for the device and return what was seen; every rank has to call this."""
        step = int(self._first)
        if step < 0:
            return None
        loss, norm = self._seen.tolist()
        return Fault(step, tuple(map(float, texts_of_ranks([repr(loss)], self._world))), norm)


def step_unless(optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
    """Do the optimiser's step unless `skip`, a scalar on its device, is 1; a fused AdamW does not wait for it."""
    if optimizer.defaults.get("fused") and skip.device.type in _READS_FLAG:
        optimizer.found_inf = skip  # type: ignore[attr-defined]  # as GradScaler does
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
    elif not skip.item():
        optimizer.step()


def write_dump(fault: Fault, scene: Scene, network: OneStream) -> UserError:
    """Keep a fault's step, its batch made again, with the weights before it; return the error that tells of it."""
    folder, keys = scene.run / "faults" / f"step_{fault.step + 1:08d}", tuple[str, ...]()
    what = f"see which sample and which layer with lorat-train --replay {folder}, then go on"
    try:
        batch = next(make_loader(scene.source, fault.step))
        keys = batch.keys
        _keep(folder, fault, scene, batch, network)
    except UserError as error:
        what = f"it could not be kept ({error.message}); go on"
    ranks, suspects, share = len(fault.losses), fault.suspects, len(keys) // len(fault.losses)
    samples = [key for r in suspects for key in keys[r * share : (r + 1) * share]]
    where = f" on rank {', '.join(map(str, suspects))}" if 1 < ranks != len(suspects) else ""
    return UserError(
        f"the loss is {fault.losses[suspects[0]]:g} and the gradient norm {fault.norm:g} at step {fault.step + 1}"
        f"{where}{f', samples {some(samples)}' if samples else ''}; {what} with --set train.dtype=float32 --resume "
        "auto, or train anew with a lower train.lr"
    )


def _keep(folder: Path, fault: Fault, scene: Scene, batch: Batch, network: OneStream) -> None:
    record = FaultRecord(
        step=fault.step,
        ranks=len(fault.losses),
        suspects=fault.suspects,
        losses=list(map(repr, fault.losses)),
        norm=repr(fault.norm),
        seed=scene.recipe.train.seed,
        device=scene.world.device.type,
        dtype=scene.number_type,
        keys=batch.keys,
        variant=scene.variant,
        recipe=scene.recipe,
    )
    with atomic_folder(folder) as beside:  # folder: of the same step before a resume
        save_weights(beside / "model.safetensors", network, scene.variant)
        held = {name: getattr(batch, name) for name in TENSORS}
        tensors = {name: tensor.contiguous() for name, tensor in held.items() if tensor is not None}
        write_tensors(beside / "batch.safetensors", tensors, {})
        write_json(beside / DUMP, record.model_dump(mode="json"))


@contextmanager
def explain_memory(recipe: RecipeConfig, variant: VariantConfig, world: World) -> Iterator[None]:
    """Turn what is raised where memory runs out into a `UserError` that says what helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        # Where a batch was waited for, what ended a worker is the cause of another error.
        where = _memory_of(error, world) or _memory_of(error.__cause__, world)
        if where is None:
            raise
        raise UserError(_out_of_memory(where, recipe, variant, world)) from error


def _memory_of(error: BaseException | None, world: World) -> str | None:
    """Return whose memory an error says is not enough; None if it says something else."""
    device = f"the {world.device.type.upper()} device"
    texts = {  # two of CUDA are of memory that PyTorch's own allocator does not hand out
        "^OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED": device,
        "MPS backend out of memory": "the MPS device",
        "(?s)DataLoader worker.*(Bus error|killed by signal: Killed)": _LOADER,
        r"^\w*MemoryError|DefaultCPUAllocator|can't allocate memory|bad_alloc": "this machine",
    }
    told = f"{type(error).__name__}: {error}"
    return next((where for text, where in texts.items() if re.search(text, told)), None)


def _out_of_memory(where: str, recipe: RecipeConfig, variant: VariantConfig, world: World) -> str:
    train, data = recipe.train, recipe.data
    share = train.batch_size // world.size
    if where == _LOADER:
        return (
            f"out of memory: {where} was ended by the system ({data.workers} a rank, each {data.prefetch} batches of "
            f"{share} pairs ahead); lower data.workers or data.prefetch with --set, or give the container more memory "
            "and shared memory (docker --shm-size)"
        )
    part = share // train.accumulate
    more = next((n for n in range(train.accumulate + 1, share + 1) if share % n == 0), 0)
    helps = {
        f"--set train.accumulate={more}": part > 1,
        "--set train.checkpoint_activations=true": not train.checkpoint_activations,
        "--set train.parallel=fsdp": world.size > 1 and train.parallel != "fsdp" and not train.compile,
        "a smaller --variant": True,
    }
    return (
        f"out of memory: the memory of {where} is too small for {variant.name} with "
        f"{f'{part} pairs' if part > 1 else 'one pair'} at once a process (train.batch_size {train.batch_size} / "
        f"{world.size} processes / train.accumulate {train.accumulate}); what helps: "
        f"{', '.join(text for text, would in helps.items() if would)}; lorat-train --profile says what fits"
    )
