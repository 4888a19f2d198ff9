"""Which network makes masks and how, declared once: each field is an option of the commands."""

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args

from lorat.evaluate.segment.files import Layout
from lorat.evaluate.segment.views import Edges
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import option
from lorat.shards.base.storage import file_digest

if TYPE_CHECKING:
    import torch

    from lorat.evaluate.segment.segmenter import Segmenter

ModelName = Literal[
    "sam",
    "sam-vit-b",
    "sam-vit-l",
    "sam-vit-h",
    "hq-sam",
    "hq-sam-vit-b",
    "hq-sam-vit-l",
    "hq-sam-vit-h",
    "sam2.1",
    "sam2.1-hiera-tiny",
    "sam2.1-hiera-small",
    "sam2.1-hiera-base-plus",
    "sam2.1-hiera-large",
]


class Size(NamedTuple):
    """What tells one network of a family from another."""

    width: int  # channels of the image encoder's first block
    blocks: int


SIZES = {
    "sam": {"sam-vit-b": Size(768, 12), "sam-vit-l": Size(1024, 24), "sam-vit-h": Size(1280, 32)},
    "hq-sam": {"hq-sam-vit-b": Size(768, 12), "hq-sam-vit-l": Size(1024, 24), "hq-sam-vit-h": Size(1280, 32)},
    "sam2.1": {
        "sam2.1-hiera-tiny": Size(96, 12),
        "sam2.1-hiera-small": Size(96, 16),
        "sam2.1-hiera-base-plus": Size(112, 24),
        "sam2.1-hiera-large": Size(144, 48),
    },
}
"""Family → name → size; a family's name means whichever size its weights are of."""

_WHERE = {
    "sam": "the .pth that its authors publish (sam_vit_h_4b8939.pth, …)",
    "hq-sam": "a folder in transformers' layout (config.json, model.safetensors)",
    "sam2.1": "a folder in transformers' layout (config.json, model.safetensors)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentSettings:
    """A mask network and how it is used; none where `segment` is None."""

    segment: ModelName | None = option(
        None, metavar="NAME", help=f"Make masks too, with a network by its name: {', '.join(get_args(ModelName))}."
    )
    segment_weights: Path | None = option(
        None, help="Its weights: SAM's own .pth, or for the others a folder in transformers' layout."
    )
    segment_dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", help="Number type of its image encoder; auto is bfloat16 on CUDA, else float32."
    )
    segment_edges: Edges = option(
        "interpolated",
        help="Interpolate logits to the frame's pixels before they are cut at 0, or cut them first and take every "
        "pixel that a cell touches, as published.",
    )
    segment_shared: bool = option(
        False, help="Look at objects of a frame together where their surroundings fit into one crop."
    )

    def check(self) -> None:
        """Raise a `UserError` if options are missing, useless, or name weights that are not there."""
        if self.segment is None:
            for field in fields(self):
                if getattr(self, field.name) != field.default:
                    raise UserError(f"--{field.name.replace('_', '-')}: needs --segment NAME")
        elif self.segment_weights is None:
            raise UserError(f"--segment {self.segment}: give --segment-weights, {_WHERE[self.family]}")
        elif not self.segment_weights.exists():
            raise UserError(f"{self.segment_weights}: no such weights; check --segment-weights")

    @property
    def family(self) -> str:
        """The family of the network."""
        return next(family for family, sizes in SIZES.items() if self.segment in (family, *sizes))

    def settled(self, device: str) -> Self:
        """Return settings that another process, in another folder, understands as this one does."""
        if self.segment is None or self.segment_weights is None:
            return self
        import torch

        from lorat.evaluate.segment.generator import pick_encoder_dtype

        dtype: Any = str(pick_encoder_dtype(self.segment_dtype, torch.device(device))).removeprefix("torch.")
        return replace(self, segment_weights=self.segment_weights.absolute(), segment_dtype=dtype)

    def arguments(self) -> list[str]:
        """Return the options that make these settings."""
        values = {f"--{field.name.replace('_', '-')}": getattr(self, field.name) for field in fields(SegmentSettings)}
        return [name if value is True else f"{name}={value}" for name, value in values.items() if value]

    def identity(self) -> dict[str, str]:
        """Return what decides the masks, the weights by their SHA-256; nothing where none are made."""
        if self.segment is None or self.segment_weights is None:
            return {}
        files = [self.segment_weights]
        if self.segment_weights.is_dir():
            files = [self.segment_weights / "config.json", *sorted(self.segment_weights.glob("*.safetensors"))]
        digests = [file_digest(file, "check --segment-weights") for file in files]
        said = {field.name: str(getattr(self, field.name)) for field in fields(SegmentSettings)}
        return said | {"segment_weights": " ".join(digests)}

    def load(self, device: "torch.device") -> "Segmenter | None":
        """Load the network onto a device; a `UserError` if weights or package are missing or do not fit."""
        self.check()
        if self.segment is None or self.segment_weights is None:
            return None
        # torch is not for every command, and each family's package only for who uses it.
        import torch

        from lorat.evaluate.segment.folders import load_folder
        from lorat.evaluate.segment.sam import load_sam
        from lorat.evaluate.segment.segmenter import Segmenter

        if self.segment_dtype == "float32":
            torch.backends.cudnn.allow_tf32 = False  # the patch convolution too is to be exact
        load = load_sam if self.family == "sam" else partial(load_folder, self.family)
        size = SIZES[self.family].get(self.segment)
        generator = load(self.segment_weights, size, self.segment_dtype, device)
        return Segmenter(generator, self.segment_edges, self.segment_shared)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskFileSettings(SegmentSettings):
    """A mask network whose masks become files."""

    segment_files: Layout = option(
        "png", help="A PNG a frame in a folder a sequence, or a file of COCO's run lengths, a line of JSON a frame."
    )
