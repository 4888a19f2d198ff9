"""What a training waits for, its data or the network, and what would help that can be done here and is not in use."""

import math
from typing import Literal, NamedTuple

import torch

from lorat.shards.base.machine import MUCH, cores_a_rank
from lorat.shards.base.storage import is_remote
from lorat.shards.pixels.jpeg import codec_name
from lorat.train.network.deploy.devices import pick_dtype
from lorat.train.network.variants import empty_network
from lorat.train.step.faults import Scene

_TOLERATED = 0.05  # share of time spent waiting for data that is not worth a change
_MARGIN = 1.2  # more workers than the mean asks for, since pairs take different times


class Pace(NamedTuple):
    """How fast some steps of a process were; means over ranks. Times are in seconds."""

    seconds: float
    waited: float  # for batches
    pairs: int  # of this process
    reading: float  # that workers spent reading the stored bytes of these pairs
    making: float  # that workers spent decoding, cropping and augmenting them
    lost: float = 0.0  # for want of a core, in the threads that compute


class Verdict(NamedTuple):
    """What a training waits for, and a line that says so with what would help."""

    kind: Literal["network", "decoding", "disk", "store"]
    text: str


def judge(pace: Pace, scene: Scene) -> Verdict:
    """Say what a training waits for, and whether it shares its processor, of which much is lost then."""
    verdict, lost = _judge(pace, scene), pace.lost / (pace.seconds or 1.0)
    shared = f"; other work had the cores for {lost:.0%} of the time that this wanted them"
    return verdict._replace(text=verdict.text + shared * (lost > MUCH))


def _judge(pace: Pace, scene: Scene) -> Verdict:
    """Say what a training waits for, and what would help. It waits for data if it does so for a twentieth of the time,
    and then for the disk or the store if workers read for longer than they decode, crop and augment.
    """
    share = pace.waited / pace.seconds if pace.seconds else 0.0
    if share < _TOLERATED:
        what = f"speed: the network is what takes the time, data waits are {share:.0%}"
        return Verdict("network", f"{what}; what would help: {_for_network(scene)}")
    read = pace.reading / ((pace.reading + pace.making) or 1.0)
    waits = f"speed: {share:.0%} of the time is spent waiting for data"
    if read <= 0.5:
        what = f"decoding and augmenting take {1 - read:.0%} of the workers' time"
        return Verdict("decoding", f"{waits}; {what}; {_for_decoding(pace, scene)}")
    remote = any(is_remote(manifest.folder) for manifest in scene.source.manifests)
    place: Literal["disk", "store"] = "store" if remote else "disk"
    more = f"--set data.workers={max(2 * scene.recipe.data.workers, 2)}, which read side by side"
    cache = f"--shard-cache DIR on {'a local' if remote else 'a faster'} disk"
    if scene.source.cache is not None:
        cache = "a --shard-cache-size that holds all shards"
    what = f"the {place} is slow: workers read for {read:.0%} of their time"
    return Verdict(place, f"{waits}; {what}; what would help: {cache}, {more}")


def _for_network(scene: Scene) -> str:
    device, plan = scene.world.device, scene.recipe.train
    cpu = device.type == "cpu"
    # A step is one graph already, or cannot be (FSDP2).
    whole = plan.compile or plan.parallel == "fsdp" or device.type == "mps"
    helps = {
        "--set train.dtype=bfloat16": scene.dtype == torch.float32
        and pick_dtype("auto", device, empty_network(scene.variant), training=True) == torch.bfloat16,
        "--set train.checkpoint_activations=false, if memory suffices": plan.checkpoint_activations,
        "a smaller train.accumulate, if memory suffices": plan.accumulate > 1 and not cpu,
        "--set train.compile=true": not whole,
        "a GPU": cpu,
        "more processes (torchrun)": not cpu,
    }
    return ", ".join(text for text, would in helps.items() if would)


def _for_decoding(pace: Pace, scene: Scene) -> str:
    """Propose as many workers as the network could use, if there are cores for them."""
    codec = "libjpeg-turbo (see the note at the start), " * codec_name().startswith("opencv")
    workers, cores = scene.recipe.data.workers, cores_a_rank()
    room = cores - (scene.world.device.type == "cpu")  # there the network needs a core itself
    if workers >= room:
        return (
            f"no core of {cores} is free: what would help: {codec}more cores a process, or less augmentation "
            "(augment in the recipe)"
        )
    busy = pace.seconds - pace.waited
    wanted = math.ceil(_MARGIN * (pace.reading + pace.making) / (busy if busy > 0 else 0.5 * pace.seconds))
    return f"what would help: {codec}--set data.workers={max(min(wanted, room), workers + 1)}"
