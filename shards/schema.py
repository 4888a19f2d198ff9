"""What the JSON of a stored sample must hold, checked field by field.

Reading a sample (`lorat.shards.sample`) takes what it needs; an audit asks for more: every field there and none
besides, right types, finite numbers, and geometry that fits together. All that is wrong is reported, not only the
first.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorat.shards.sample import VERSION

Count = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(gt=0)]
Colour = Annotated[float, Field(ge=0.0, le=255.0)]
Name = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class ImageMeta(_Strict):
    """One stored image; the fields are those of `lorat.shards.sample.StoredImage`."""

    frame: Count
    box: tuple[float, float, float, float]
    frame_size: tuple[Pixels, Pixels]
    mean: tuple[Colour, Colour, Colour]
    origin: tuple[Count, Count]
    window: tuple[Count, Count]
    size: tuple[Pixels, Pixels]

    def faults(self) -> list[str]:
        """Return what does not fit together, in words."""
        found = []
        for axis, name in ((0, "width"), (1, "height")):
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
    dataset: Name
    split: Name
    sequence: Name
    track: Count
    template: ImageMeta
    search: ImageMeta


def read_meta(text: bytes) -> tuple[SampleMeta | None, list[str]]:
    """Return a sample's fields, or None where they cannot be read, and every fault, in words."""
    try:
        meta = SampleMeta.model_validate_json(text)
    except ValidationError as error:
        return None, [_words(detail["loc"], detail["msg"]) for detail in error.errors()]
    both = (("search", meta.search), ("template", meta.template))
    return meta, [f"JSON {role}: {fault}" for role, image in both for fault in image.faults()]


def _words(place: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(part) for part in place)
    if name == "version":
        return f"JSON version is not {VERSION}, which this release reads"
    return f"JSON {name}: {message}" if name else f"JSON: {message}"
