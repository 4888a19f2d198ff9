"""What a variant and a recipe hold: frozen, validated, every field explained.

A variant is the network and its crops; a recipe is the data and the optimisation. YAML writes
floats such as 1.0e-4 with a dot; without it YAML reads a string, which is accepted here too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "AugmentConfig",
    "BackboneConfig",
    "DataConfig",
    "LoraConfig",
    "RecipeConfig",
    "TrainConfig",
    "VariantConfig",
]

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rgb = tuple[float, float, float]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LoraConfig(_Frozen):
    """Low-rank pairs on every linear layer of every block."""

    rank: Positive = 64
    alpha: float = 64.0
    """The product is scaled by alpha / rank."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead."""
    dropout: Share = 0.0


class BackboneConfig(_Frozen):
    """The vision transformer under the tracker."""

    timm: str
    """timm's model name with its tag, such as vit_base_patch14_dinov2.lvd142m."""
    args: dict[str, Any] = {}
    """Passed on to timm.create_model: other widths, depths, patch sizes."""
    pretrained: bool = True
    """Whether the backbone's weights are loaded; false trains the network from scratch."""
    initial_positions: Literal["timm", "sincos"] = "timm"
    """What positions start from where nothing is loaded; with sines and cosines a small network
    knows where its tokens are from the first step on."""


class VariantConfig(_Frozen):
    """A network and the crops that it sees. Sizes are in pixels, sides of squares."""

    name: str
    backbone: BackboneConfig
    lora: LoraConfig | None = LoraConfig()
    """None trains the backbone whole."""
    template_size: Positive
    search_size: Positive
    template_factor: float = 2.0
    """Area factor of the template's window (see lorat.shards.geometry.crop_transform)."""
    search_factor: float = 4.0
    """Area factor of the search window."""
    drop_path: Share = 0.0
    token_type_std: Annotated[float, Field(gt=0.0)] = 0.02
    """Standard deviation of new token types; the published value suits trained backbones."""
    recipe: str = "standard"
    """The recipe that trains it when none is named."""
    mean: Rgb = (0.485, 0.456, 0.406)
    """Of values in [0, 1]; ImageNet's by default."""
    std: Rgb = (0.229, 0.224, 0.225)


class DataConfig(_Frozen):
    """Where pairs come from, and how they are mixed."""

    datasets: dict[str, Positive] = {}
    """Shard set name (lasot-train) → integer weight."""
    window_shards: Annotated[int, Field(ge=0)] = 0
    """Rows are shuffled inside windows of so many shards; 0 means all of them."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Loader processes a rank; the batches do not depend on it."""
    prefetch: Positive = 4
    """Batches that each worker prepares ahead."""


class AugmentConfig(_Frozen):
    """How a stored pair becomes a training pair."""

    scale_jitter: float = 0.25
    """Standard deviation of the log scale of the search window, an axis each."""
    translation_jitter: float = 3.0
    """Largest shift of the search window, in mean object sides."""
    flip: Share = 0.5
    """Probability of a horizontal flip, template and search each."""
    colour_jitter: Share = 0.4
    """Brightness, contrast and saturation factors are drawn from 1 ± this."""
    grey_solarise_blur: bool = True
    """One of greyscale, solarise and Gaussian blur for both crops of every pair."""
    rotation: Share = 0.0
    """Probability that the search crop is turned about the object, by any angle."""
    motion_blur: Share = 0.0
    """Probability of a motion blur of the search crop (up to a tenth of its side)."""
    background: Share = 0.0
    """Probability that the object of the search crop stands before another image of its shard."""


class TrainConfig(_Frozen):
    """The optimisation."""

    batch_size: Positive = 128
    """Pairs a step, over all processes."""
    accumulate: Positive = 1
    """Micro-batches a step: less memory, the same step."""
    pairs_per_epoch: Positive = 131072
    epochs: Positive = 170
    lr: float = 1.0e-4
    lr_min: float = 1.0e-6
    lr_warmup: float = 1.0e-7
    """Rate at the first step of the warm-up."""
    warmup_epochs: float = 2.0
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    seed: Annotated[int, Field(ge=0)] = 42
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of autocast: bfloat16 where the processor is fast at it, by default."""
    checkpoint_epochs: Positive = 10
    keep_checkpoints: Positive = 5
    log_steps: Positive = 10


class RecipeConfig(_Frozen):
    """Data and optimisation of a training run."""

    name: str
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _whole_steps(self) -> RecipeConfig:
        train = self.train
        if not self.data.datasets:
            raise ValueError("data.datasets names no shards; write for example {lasot-train: 1}")
        if train.pairs_per_epoch % train.batch_size:
            raise ValueError(
                f"train.pairs_per_epoch ({train.pairs_per_epoch}) must be a multiple of "
                f"train.batch_size ({train.batch_size})"
            )
        if train.batch_size % train.accumulate:
            raise ValueError(
                f"train.batch_size ({train.batch_size}) must be a multiple of "
                f"train.accumulate ({train.accumulate})"
            )
        return self
