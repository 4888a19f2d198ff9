"""What a training waits for: its data, the disk or store they come from, or the network itself.

Promise: the verdict is a function of what was measured and of the circumstances, and what it
proposes can be done with the options of ``lorat-train`` or is plainly about the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal, NamedTuple

import torch

from lorat.shards.base.process import cores_a_rank
from lorat.shards.base.storage import is_remote
from lorat.shards.pixels.jpeg import codec_name
from lorat.train.network.deploy.devices import cpu_number_type
from lorat.train.step.faults import Scene

_TOLERATED = 0.05
"""Share of time spent waiting for data that is not worth a change."""
_MARGIN = 1.2
"""More workers than the mean asks for, since pairs take different times."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast some steps of a process were; means over ranks. Times are in seconds."""

    seconds: float
    waited: float
    """For batches."""
    pairs: int
    """Of this process."""
    reading: float
    """That workers spent reading the stored bytes of these pairs."""
    making: float
    """That workers spent decoding, cropping and augmenting them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """What a process trains with."""

    workers: int
    cores: int
    """Of this process: the machine's, divided by the processes on it."""
    device: str
    """``cpu``, ``cuda`` or ``mps``."""
    dtype: torch.dtype
    fast_bfloat16: bool
    """Whether the device computes faster in bfloat16."""
    accumulate: int
    checkpoints: bool
    """Whether activations are computed again instead of kept."""
    compiled: bool
    """Whether a step is one graph, or cannot be (FSDP2)."""
    remote: bool
    """Whether shards come from a store."""
    cached: bool
    fast_codec: bool


class Verdict(NamedTuple):
    """What a training waits for, and a line that says so with what would help."""

    kind: Literal["network", "decoding", "disk", "store"]
    text: str


def sum_of(paces: Sequence[Pace]) -> Pace:
    """Return the pace of all these steps together."""
    return Pace(*map(sum, zip(*map(astuple, paces), strict=True)))


def circumstances_of(scene: Scene) -> Circumstances:
    """Look up what a run trains with."""
    device, plan, source = scene.world.device, scene.recipe.train, scene.source
    fast = cpu_number_type() == torch.bfloat16
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
    return Circumstances(
        workers=scene.recipe.data.workers,
        cores=cores_a_rank(),
        device=device.type,
        dtype=scene.dtype,
        fast_bfloat16=fast and device.type != "mps",
        accumulate=plan.accumulate,
        checkpoints=plan.checkpoint_activations,
        compiled=plan.compile or plan.parallel == "fsdp",
        remote=any(is_remote(manifest.folder) for manifest in source.manifests),
        cached=source.cache is not None,
        fast_codec=not codec_name().startswith("opencv"),
    )


def judge(pace: Pace, about: Circumstances) -> Verdict:
    """Say what a training waits for, and what would help.

    It waits for data if it does so for a twentieth of the time. Then it is for the disk or the
    store if workers read for longer than they decode, crop and augment.
    """
    share = pace.waited / pace.seconds if pace.seconds else 0.0
    if share < _TOLERATED:
        what = f"speed: the network is what takes the time, data waits are {share:.0%}"
        return Verdict("network", f"{what}; what would help: {_for_network(about)}")
    total = pace.reading + pace.making
    read = pace.reading / total if total else 0.0
    waits = f"speed: {share:.0%} of the time is spent waiting for data"
    if read > 0.5:
        place: Literal["disk", "store"] = "store" if about.remote else "disk"
        what = f"the {place} is slow: workers read for {read:.0%} of their time"
        return Verdict(place, f"{waits}; {what}; what would help: {_for_disk(about)}")
    what = f"decoding and augmenting take {1 - read:.0%} of the workers' time"
    return Verdict("decoding", f"{waits}; {what}; {_for_decoding(pace, about)}")


def _for_network(about: Circumstances) -> str:
    helps = {
        "--set train.dtype=bfloat16": about.fast_bfloat16 and about.dtype == torch.float32,
        "--set train.checkpoint_activations=false, if memory suffices": about.checkpoints,
        "a smaller train.accumulate, if memory suffices": about.accumulate > 1
        and about.device != "cpu",
        "--set train.compile=true": not about.compiled and about.device != "mps",
        "a GPU": about.device == "cpu",
        "more processes (torchrun)": about.device != "cpu",
    }
    return ", ".join(text for text, would in helps.items() if would)


def _for_disk(about: Circumstances) -> str:
    more = f"--set data.workers={max(2 * about.workers, 2)}, which read side by side"
    if about.cached:
        return f"{more}, a --shard-cache-size that holds all shards"
    where = "a local disk" if about.remote else "a faster disk"
    return f"--shard-cache DIR on {where}, {more}"


def _for_decoding(pace: Pace, about: Circumstances) -> str:
    """Propose as many workers as the network could use, if there are cores for them."""
    codec = "" if about.fast_codec else "libjpeg-turbo (see the note at the start), "
    # On the processor the network needs a core itself.
    room = about.cores - 1 if about.device == "cpu" else about.cores
    if about.workers >= room:
        return (
            f"all {about.cores} cores are at work: what would help: {codec}more cores a process, "
            "or less augmentation (augment in the recipe)"
        )
    busy = pace.seconds - pace.waited
    if busy <= 0:
        busy = 0.5 * pace.seconds
    wanted = math.ceil(_MARGIN * (pace.reading + pace.making) / busy)
    workers = max(min(wanted, room), about.workers + 1)
    return f"what would help: {codec}--set data.workers={workers}"
