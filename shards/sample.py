"""One sample of a shard: two stored crops of one track and everything needed to crop them again.

A sample is three tar members, in this order: ``<key>.json``, ``<key>.search.jpg``, ``<key>.template.jpg``. A stored
image holds real frame pixels only; its pixel u (centres) lies at ``origin + (u + 0.5) · (window − origin) / size −
0.5`` in the original frame, per axis.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorat.shards.base.errors import ShardCorrupt

VERSION = 1
_ROLES = ("template", "search")
_OF_TRACK = ("dataset", "split", "sequence", "track")
_MEMBERS = frozenset({"json", *(f"{role}.jpg" for role in _ROLES)})
_Count = Annotated[int, Field(ge=0)]
_Pixels = Annotated[int, Field(gt=0)]
_Colour = Annotated[float, Field(ge=0.0, le=255.0)]
_Name = Annotated[str, Field(min_length=1)]


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
class PairSample:
    """A template and a search region of one track."""

    key: str
    dataset: str
    split: str
    sequence: str
    track: int
    template: StoredImage
    search: StoredImage


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class ImageMeta(_Strict):
    """What the JSON of a sample says of one image: the fields of `StoredImage`, every one and none besides."""

    frame: _Count
    box: tuple[float, float, float, float]
    frame_size: tuple[_Pixels, _Pixels]
    mean: tuple[_Colour, _Colour, _Colour]
    origin: tuple[_Count, _Count]
    window: tuple[_Count, _Count]
    size: tuple[_Pixels, _Pixels]

    def faults(self) -> list[str]:
        """Return what does not fit together, in words."""
        found = []
        for axis, name in enumerate(("width", "height")):
            low, high, frame = self.origin[axis], self.window[axis], self.frame_size[axis]
            start, end = self.box[axis], self.box[axis + 2]
            if end <= start:
                found.append(f"the box has no {name} ({start:g} to {end:g})")
            elif not (start < high and end > low):
                found.append(f"the box lies outside the stored window in {name}")
            if high <= low:
                found.append(f"the window has no {name} ({low} to {high})")
            elif high > frame:
                found.append(f"the window ends at {high}, past the frame's {name} of {frame}")
            if self.size[axis] > max(0, high - low):
                found.append(f"stored with a {name} of {self.size[axis]}, more than the window's")
        return found


class SampleMeta(_Strict):
    """The JSON member of one sample."""

    version: Literal[1]
    dataset: _Name
    split: _Name
    sequence: _Name
    track: _Count
    template: ImageMeta
    search: ImageMeta


def read_meta(text: bytes) -> tuple[SampleMeta | None, list[str]]:
    """Return a sample's fields, or None where they cannot be read, and why, in words."""
    try:
        return SampleMeta.model_validate_json(text), []
    except ValidationError as error:
        found = []
        for detail in error.errors():
            name = ".".join(map(str, detail["loc"]))
            if name == "version":
                found.append(f"JSON version {detail['input']}, this release reads {VERSION}")
            else:
                found.append(f"JSON {name}: {detail['msg']}" if name else f"JSON: {detail['msg']}")
        return None, found


def sample_key(dataset: str, split: str, pair: int) -> str:
    """Return the key of pair number `pair`: ``lasot-train-000000123``."""
    return f"{dataset}-{split}-{pair:09d}"


def to_members(sample: PairSample) -> list[tuple[str, bytes]]:
    """Return the sample's tar members (name, payload) in their order."""
    meta: dict[str, Any] = {"version": VERSION}
    meta |= {name: getattr(sample, name) for name in _OF_TRACK}
    for role in _ROLES:
        image = getattr(sample, role)
        meta[role] = {name: getattr(image, name) for name in ImageMeta.model_fields}
    text = json.dumps(meta, separators=(",", ":"), ensure_ascii=True).encode()
    return [
        (f"{sample.key}.json", text),
        (f"{sample.key}.search.jpg", sample.search.jpeg),
        (f"{sample.key}.template.jpg", sample.template.jpeg),
    ]


def from_members(members: list[tuple[str, bytes]], where: str) -> PairSample:
    """Build a sample from its tar members, (name, payload) as `to_members` gives them. A `ShardCorrupt` that begins
    with `where` if a member is missing or the JSON is not what this version reads.
    """
    payloads = {name.partition(".")[2]: data for name, data in members}
    if payloads.keys() != _MEMBERS:
        raise ShardCorrupt(f"{where}: members are {sorted(payloads)}, expected {sorted(_MEMBERS)}")
    meta, faults = read_meta(payloads["json"])
    if meta is None:
        raise ShardCorrupt(f"{where}: {'; '.join(faults)}")
    images = {role: StoredImage(**dict(getattr(meta, role)), jpeg=payloads[f"{role}.jpg"]) for role in _ROLES}
    key = members[0][0].partition(".")[0]
    return PairSample(key, meta.dataset, meta.split, meta.sequence, meta.track, **images)
