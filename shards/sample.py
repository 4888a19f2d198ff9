"""One sample of a shard: two stored crops of one track and everything needed to crop them again.

A sample is three tar members, in this order: ``<key>.json``, ``<key>.search.jpg``, ``<key>.template.jpg``. A stored
image holds real frame pixels only; its pixel u (centres) lies at ``origin + (u + 0.5) · (window − origin) / size −
0.5`` in the original frame, per axis.
"""

import json
from dataclasses import dataclass, fields
from typing import Any

from lorat.shards.base.errors import ShardCorrupt

VERSION = 1
_ROLES = ("template", "search")
_OF_TRACK = ("dataset", "split", "sequence", "track")
_MEMBERS = frozenset({"json", *(f"{role}.jpg" for role in _ROLES)})


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


def sample_key(dataset: str, split: str, pair: int) -> str:
    """Return the key of pair number `pair`: ``lasot-train-000000123``."""
    return f"{dataset}-{split}-{pair:09d}"


def to_members(sample: PairSample) -> list[tuple[str, bytes]]:
    """Return the sample's tar members (name, payload) in their order."""
    meta: dict[str, Any] = {"version": VERSION, **{name: getattr(sample, name) for name in _OF_TRACK}}
    for role in _ROLES:
        image = getattr(sample, role)
        meta[role] = {field.name: getattr(image, field.name) for field in fields(image) if field.name != "jpeg"}
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
    from lorat.shards.schema import read_meta  # pydantic, which a worker that writes shards does not need

    meta, faults = read_meta(payloads["json"])
    if meta is None:
        raise ShardCorrupt(f"{where}: {'; '.join(faults)}")
    images = {role: StoredImage(**dict(getattr(meta, role)), jpeg=payloads[f"{role}.jpg"]) for role in _ROLES}
    return PairSample(members[0][0].partition(".")[0], meta.dataset, meta.split, meta.sequence, meta.track, **images)
