"""One sample of a shard: stored windows of frames of one track and everything needed to crop them again.

Its tar members, in this order: ``<key>.json``, the search images, the templates. A pair, one of each, has them as
``<key>.search.jpg`` and ``<key>.template.jpg``, a tuple as ``<key>.search0.jpg``, ``<key>.search1.jpg``,
``<key>.template0.jpg``, …. A stored image holds real frame pixels only; its pixel u (centres) lies at ``origin + (u +
0.5) · (window − origin) / size − 0.5`` in the original frame, per axis.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from lorat.shards.base.errors import ShardCorrupt

VERSION = 1
_OF_TRACK = ("dataset", "split", "sequence", "track")
Sampler = Literal["pair", "spmtrack", "loratv2"]
"""Who draws the frames of a sample."""


class Shape(NamedTuple):
    """How many images a sample has."""

    templates: int
    searches: int


SHAPES: dict[Sampler, Shape] = {"pair": Shape(1, 1), "spmtrack": Shape(3, 2), "loratv2": Shape(1, 2)}
"""Of the samples that each sampler draws."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A window of one frame as it is stored."""

    frame: int  # 0-based, in the sequence as the tree gives it
    box: tuple[float, float, float, float]  # the object, xyxy, in the original frame
    frame_size: tuple[int, int]  # (width, height) of the original frame
    mean: tuple[float, float, float]  # mean colour of the whole frame, RGB, 0 … 255
    origin: tuple[int, int]  # left and top of the window in the frame, whole pixels
    window: tuple[int, int]  # its right and bottom, ends exclusive
    size: tuple[int, int]  # (width, height) of the stored image
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """Templates and search images of one track, in the order of their sampler."""

    key: str
    dataset: str
    split: str
    sequence: str
    track: int
    templates: tuple[StoredImage, ...]
    searches: tuple[StoredImage, ...]

    @property
    def images(self) -> tuple[StoredImage, ...]:
        """The templates, then the search images."""
        return self.templates + self.searches

    @property
    def shape(self) -> Shape:
        """How many of each there are."""
        return Shape(len(self.templates), len(self.searches))


def image_roles(shape: Shape) -> list[str]:
    """Return what the images of a sample are called in members and JSON, templates first."""
    if shape == SHAPES["pair"]:
        return ["template", "search"]
    return [f"template{n}" for n in range(shape.templates)] + [f"search{n}" for n in range(shape.searches)]


def member_names(shape: Shape) -> list[str]:
    """Return what the members of a sample are called after its key and a dot, in their order."""
    roles = image_roles(shape)
    return ["json", *(f"{role}.jpg" for role in roles[shape.templates :] + roles[: shape.templates])]


def shape_of(names: Collection[str]) -> Shape:
    """Return the shape of a sample with members that are called so, or the nearest if they are no sample's."""
    return Shape(*(max(1, sum(name.startswith(kind) for name in names)) for kind in ("template", "search")))


def sample_key(dataset: str, split: str, number: int) -> str:
    """Return the key of sample `number`: ``lasot-train-000000123``."""
    return f"{dataset}-{split}-{number:09d}"


def to_members(sample: Sample) -> list[tuple[str, bytes]]:
    """Return the sample's tar members (name, payload) in their order."""
    meta: dict[str, Any] = {"version": VERSION, **{name: getattr(sample, name) for name in _OF_TRACK}}
    payloads = {}
    for role, image in zip(image_roles(sample.shape), sample.images, strict=True):
        meta[role] = {field.name: getattr(image, field.name) for field in fields(image) if field.name != "jpeg"}
        payloads[f"{role}.jpg"] = image.jpeg
    payloads["json"] = json.dumps(meta, separators=(",", ":"), ensure_ascii=True).encode()
    return [(f"{sample.key}.{name}", payloads[name]) for name in member_names(sample.shape)]


def from_members(members: list[tuple[str, bytes]], where: str) -> Sample:
    """Build a sample from its tar members, (name, payload) as `to_members` gives them. A `ShardCorrupt` that begins
    with `where` if a member is missing or the JSON is not what this version reads.
    """
    payloads = {name.partition(".")[2]: data for name, data in members}
    if payloads.keys() != set(wanted := member_names(shape := shape_of(payloads))):
        raise ShardCorrupt(f"{where}: members are {sorted(payloads)}, expected {sorted(wanted)}")
    from lorat.shards.schema import read_meta  # pydantic, which a worker that writes shards does not need

    meta, faults = read_meta(payloads["json"], roles := image_roles(shape))
    if meta is None:
        raise ShardCorrupt(f"{where}: {'; '.join(faults)}")
    images = tuple(StoredImage(**dict(meta.image(role)), jpeg=payloads[f"{role}.jpg"]) for role in roles)
    of_track = {name: getattr(meta, name) for name in _OF_TRACK}
    first = shape.templates
    return Sample(members[0][0].partition(".")[0], **of_track, templates=images[:first], searches=images[first:])
