"""The JSON member of a sample, strictly: what the fields may be, for readers and audits."""

import functools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from lorat.shards.sample import VERSION

_Count = Annotated[int, Field(ge=0)]
_Pixels = Annotated[int, Field(gt=0)]
_Colour = Annotated[float, Field(ge=0.0, le=255.0)]
_Name = Annotated[str, Field(min_length=1)]


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
    """The JSON member of one sample, which has an `ImageMeta` for each of its images besides."""

    version: Literal[1]
    dataset: _Name
    split: _Name
    sequence: _Name
    track: _Count

    def image(self, role: str) -> ImageMeta:
        """Return what is said of an image."""
        meta: ImageMeta = getattr(self, role)
        return meta


@functools.cache
def _with_images(roles: tuple[str, ...]) -> type[SampleMeta]:
    images: dict[str, Any] = dict.fromkeys(roles, (ImageMeta, ...))
    return create_model("SampleMeta", __base__=SampleMeta, **images)


def read_meta(text: bytes, roles: Sequence[str]) -> tuple[SampleMeta | None, list[str]]:
    """Return the fields of a sample with images of these roles, or None where they cannot be read, and why in words."""
    try:
        return _with_images(tuple(roles)).model_validate_json(text), []
    except ValidationError as error:
        found = []
        for detail in error.errors():
            name = ".".join(map(str, detail["loc"]))
            if name == "version":
                found.append(f"JSON version {detail['input']}, this release reads {VERSION}")
            else:
                found.append(f"JSON {name}: {detail['msg']}" if name else f"JSON: {detail['msg']}")
        return None, found
