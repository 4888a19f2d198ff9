"""What a variant and a recipe hold: frozen, validated, every field explained.

A variant is the network and its crops; a recipe is the data and the optimisation. YAML writes floats such as 1.0e-4
with a dot; without it YAML reads a string, which is accepted here too.
"""

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
AboveZero = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
LoraTarget = Literal["q", "k", "v", "proj", "mlp"]
MemoryRule = Literal["quarter", "third"]
StopMetric = Literal[
    "val_loss", "val_score", "val_box", "got10k-val/ao", "got10k-val/sr50", "got10k-val/sr75", "got10k-val/auc"
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class LoraConfig(_Frozen):
    """Low-rank pairs on linear layers of every block."""

    rank: Positive = 64
    alpha: float = 64.0
    """The product is scaled by alpha / rank."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead."""
    dropout: Share = 0.0
    targets: Annotated[tuple[LoraTarget, ...], Field(min_length=1)] = get_args(LoraTarget)
    """Which layers have a pair: query, key, value, attention's projection, both MLP layers."""
    init: Literal["bert", "lora", "gaussian"] = "bert"
    """Of both factors: truncated normal of 0.02 (bert), or the second zero and the first uniform as PyTorch's layers
    begin (lora) or normal of 1 / rank (gaussian)."""
    experts: Annotated[int, Field(ge=0)] = 0
    """SPMTrack's mixture: of so many second factors a router says for each token how much of each is taken. 0 is LoRA,
    which has one and no router."""
    shared_expert: bool = False
    """One more second factor, which is always taken whole."""
    route_compression: bool = False
    """Every expert has a first factor of its own."""

    @property
    def scale(self) -> float:
        """What multiplies the product: alpha / rank, or alpha / sqrt(rank) where it is rank-stabilised."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @model_validator(mode="after")
    def _experts_fit(self) -> "LoraConfig":
        if (self.shared_expert or self.route_compression) and not self.experts:
            raise ValueError("shared_expert and route_compression are for a mixture of experts; set experts too")
        if self.shared_expert and self.route_compression:
            raise ValueError("shared_expert and route_compression exclude each other; set one of them")
        return self

    @field_validator("targets")
    @classmethod
    def _in_order(cls, targets: tuple[LoraTarget, ...]) -> tuple[LoraTarget, ...]:
        return tuple(name for name in get_args(LoraTarget) if name in targets)


class BackboneConfig(_Frozen):
    """The vision transformer under the tracker."""

    timm: str
    """timm's model name with its tag, such as vit_base_patch14_dinov2.lvd142m."""
    args: dict[str, Any] = {}
    """Passed on to timm.create_model: other widths, depths, patch sizes."""
    layout: Literal["official", "timm"] = "official"
    """Which published system the variant follows, in names of tensors in published files, positions ("official"
    resamples the backbone's grid to the search grid, "timm" takes its top-left part and resamples, with antialiasing,
    only a smaller one) and drop path ("official" has one rate for all blocks, "timm" grows linearly from 0 to it)."""
    pretrained: bool = True
    """Whether the backbone's weights are loaded; false trains the network from scratch."""
    prefix_tokens: Literal["none", "registers", "all"] = "none"
    """Which of the backbone's own tokens pass the blocks before the template's: none, its register tokens, or its class
    token too. They have neither place nor token type, and nothing reads them after the last block."""
    initial_positions: Literal["timm", "sincos"] = "timm"
    """Where nothing is loaded; with sines and cosines a small network knows at once where its tokens are."""
    initial_attention: Literal["timm", "mimetic"] = "timm"
    """Where nothing is loaded; as trained attention looks, a small network compares patches much sooner."""


class VariantConfig(_Frozen):
    """A network and the crops that it sees. Sizes are in pixels, sides of squares."""

    name: str
    method: Literal["lorat", "spmtrack", "loratv2"] = "lorat"
    """The tracker that the network is of."""
    backbone: BackboneConfig
    lora: LoraConfig | None = LoraConfig()
    """None trains the backbone whole."""
    template_size: Positive
    search_size: Positive
    template_factor: AboveZero = 2.0
    """Area factor of the template's window (see lorat.shards.pixels.geometry.crop_transform)."""
    search_factor: AboveZero = 4.0
    """Area factor of the search window."""
    templates: Positive = 1
    """Template images of a sample."""
    searches: Positive = 1
    """Search images of a training sample, each of which is predicted."""
    reference_size: Positive | None = None
    """Of the dynamic reference frame, a later look at the object that LoRATv2's second phase has; None where there is
    none."""
    reference_factor: AboveZero = 4.0
    """Area factor of its window."""
    reference_threshold: AboveZero = 0.9
    """A tracked frame with a score above it leaves the next reference; with 1 the first one stays."""
    memory_rule: MemoryRule = "quarter"
    """Which of a sequence's templates SPMTrack looks at: the first and those at about a quarter and three quarters of
    what it has seen, or at a third and two thirds, which the published B-378 does on LaSOT."""
    window_weight: Share = 0.45
    """Of the window that favours a search crop's middle, in the ranking of its cells."""
    drop_path: Share = 0.0
    token_type_std: AboveZero = 0.02
    """Standard deviation of new token types; the published value suits trained backbones."""
    recipe: str = "standard"
    """The recipe that trains it when none is named."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of values in [0, 1]; ImageNet's by default."""
    std: tuple[AboveZero, AboveZero, AboveZero] = (0.229, 0.224, 0.225)

    @property
    def streams(self) -> int:
        """Sets of factors of a layer: one, or, with LoRATv2, one for each frame: template, reference if any, search."""
        return 1 if self.method != "loratv2" else 2 + (self.reference_size is not None)

    @property
    def second_phase(self) -> bool:
        """Whether training goes on from another variant's weights, LoRATv2's first phase."""
        return self.reference_size is not None and self.lora is not None

    @model_validator(mode="after")
    def _method_fits(self) -> "VariantConfig":
        several = {"templates": self.templates > 1, "searches": self.searches > 1}
        if self.method != "spmtrack" and (many := [name for name, holds in several.items() if holds]):
            raise ValueError(f"{' and '.join(many)} above 1 are for method spmtrack, not {self.method}")
        if self.method != "loratv2" and self.reference_size is not None:
            raise ValueError(f"reference_size is for method loratv2, not {self.method}")
        if self.method == "loratv2" and self.lora is not None and self.lora.experts:
            raise ValueError("lora.experts: method loratv2 has plain pairs, a set a frame; set it to 0")
        if self.method == "spmtrack" and self.backbone.prefix_tokens != "none":
            raise ValueError("backbone.prefix_tokens: method spmtrack has a token of its own; set it to none")
        return self


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
    negatives: Share = 0.0
    """Share of samples whose search crops come from another sequence: the object is not in them."""
    negatives_from: str = ""
    """Where those crops are from: one of ``datasets``, ``any`` of them by weight, or, empty, the pair's own shard."""
    max_gap: Positive | None = None
    """Most frames between a template and a search frame; samples of which two are further apart are replaced by others
    of their set."""
    causal: bool = False
    """Samples with a search frame before a template's are replaced by others of their set."""
    validation: str = ""
    """Shard set (got10k-val) whose losses are computed now and then; none where this is empty."""
    validation_pairs: Positive = 4096
    """Pairs of a validation, rounded up to whole batches."""


class AugmentConfig(_Frozen):
    """How a stored pair becomes a training pair."""

    scale_jitter: NotNegative = 0.25
    """Standard deviation of the log scale of the search window, an axis each."""
    translation_jitter: NotNegative = 3.0
    """Largest shift of the search window, in mean object sides."""
    flip: Share = 0.5
    """Probability of a horizontal flip, each crop by itself."""
    colour_jitter: Share = 0.4
    """Brightness, contrast and saturation factors are drawn from 1 ± this."""
    grey_solarise_blur: bool = True
    """One of greyscale, solarise and Gaussian blur for all crops of every sample."""
    rotation: Share = 0.0
    """Probability that a search crop is turned about the object, by any angle. A dynamic reference frame is cropped and
    augmented as a search frame, here and below."""
    motion_blur: Share = 0.0
    """Probability of a motion blur of a search crop (up to a tenth of its side)."""
    background: Share = 0.0
    """Probability that the objects of a sample's search crops stand before another image of its shard."""

    def windows_only(self) -> "AugmentConfig":
        """Return what jitters search windows as here, and neither flips crops nor changes colours: for measuring."""
        jitter = self.model_dump(include={"scale_jitter", "translation_jitter"})
        return AugmentConfig(**jitter, flip=0.0, colour_jitter=0.0, grey_solarise_blur=False)


class EarlyStopping(_Frozen):
    """A run ends before its last epoch where a metric gets no better."""

    metric: StopMetric
    """A loss on validation pairs (less is better), or a score on GOT-10k val (more is better)."""
    patience: Positive
    """Epochs; the run ends with the first that has a value, where the best one is so much older."""

    @property
    def of_validation(self) -> bool:
        """Whether the metric is a loss on validation pairs."""
        return self.metric.startswith("val_")


class TrainConfig(_Frozen):
    """The optimisation."""

    batch_size: Positive = 128
    """Pairs a step, over all processes."""
    accumulate: Positive = 1
    """Micro-batches a step: less memory, the same step."""
    pairs_per_epoch: Positive = 131072
    epochs: Positive = 170
    lr: NotNegative = 1.0e-4
    lr_min: NotNegative = 1.0e-6
    lr_warmup: NotNegative = 1.0e-7
    """Rate at the first step of the warm-up."""
    warmup_epochs: NotNegative = 2.0
    weight_decay: NotNegative = 0.1
    box_warmup_epochs: NotNegative = 0.0
    """Epochs at the start in which the loss of boxes counts ten times."""
    clip_norm: AboveZero = 1.0
    """Longest gradient; a longer one is scaled down to it. A large number clips nothing."""
    seed: Annotated[int, Field(ge=0)] = 42
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of autocast; auto is bfloat16 where the device is fast at it. The loss is scaled for float16, and a
    step whose gradients overflow all the same is left out."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Each block learns at this times the rate of the block after it; 1 is the same for all."""
    frozen_blocks: Annotated[int, Field(ge=0)] = 0
    """The first so many blocks, and all before them, token types too, stay as they were: no gradient passes them, which
    saves time and memory. With LoRA their pairs are without effect unless ``--weights`` brings some."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """What a moving average of the trained weights keeps of itself at each step, such as 0.9998, less in the first
    steps; it is what is validated, tracked with and saved as the model. 0 is no average."""
    parallel: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    """What many processes share: gradients (DDP), or also the weights (FSDP2), of which each then holds its part, or
    what ``zero_stage`` says (DeepSpeed)."""
    zero_stage: Literal[1, 3] = 1
    """Of DeepSpeed: each process holds its part of the optimiser's state (1), or of gradients and weights too (3)."""
    checkpoint_activations: bool = False
    """Compute each block again in the backward pass: much less memory, a third more time, the same gradients."""
    compile: bool = False
    """Compile forward pass, loss and gradients into one graph; the first step takes minutes."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """What the compiler tries: PyTorch's modes."""
    compiled_autograd: bool = False
    """Compile the backward pass as one graph too, with what averages gradients over processes in it (DDP)."""
    validate_epochs: Positive = 1
    """Epochs between two validations, where ``data.validation`` names shards."""
    checkpoint_epochs: Positive = 10
    """A checkpoint after every so many epochs, and after the last."""
    keep_checkpoints: Positive = 5
    """Newest ones of those that are kept; of rolling ones, by steps and minutes, two are."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """A rolling checkpoint after every so many steps; 0 means none."""
    checkpoint_minutes: NotNegative = 30.0
    """A rolling checkpoint after so many minutes without one; 0 means none."""
    evaluate_epochs: Positive = 10
    """GOT-10k val, where its tree is, is tracked after every so many epochs, and a checkpoint is written; test sets
    are tracked after the last one."""
    early_stopping: EarlyStopping | None = None
    """None trains all epochs."""
    evaluate: tuple[str, ...] | None = None
    """Those test sets (got10k-val, lasot-test); null is all with ground truth whose tree is there, [] none."""
    evaluate_batch: Positive = 16
    """Sequences that are tracked side by side, a rank."""
    evaluate_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type that they are tracked in."""
    resume: bool = False
    """Go on from the newest checkpoint of the run folder, if any, as ``--resume auto`` does."""
    log_steps: Positive = 10


class RecipeConfig(_Frozen):
    """Data and optimisation of a training run."""

    name: str
    """Of several recipes, one over the other, their names with + between."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _whole_steps(self) -> "RecipeConfig":
        train = self.train
        if not self.data.datasets:
            raise ValueError("data.datasets names no shards; write for example {lasot-train: 1}")
        if self.data.negatives_from not in ("", "any", *self.data.datasets):
            those = ", ".join(self.data.datasets)
            raise ValueError(f"data.negatives_from ({self.data.negatives_from}) is none of any, {those}")
        for whole, part in (("pairs_per_epoch", "batch_size"), ("batch_size", "accumulate")):
            size, by = getattr(train, whole), getattr(train, part)
            if size % by:
                raise ValueError(f"train.{whole} ({size}) must be a multiple of train.{part} ({by})")
        if train.compile and train.parallel != "ddp":
            what = f"train.compile makes one graph of a step, which train.parallel={train.parallel} would cut"
            raise ValueError(f"{what}; set one of them alone")
        if train.compiled_autograd and not train.compile:
            raise ValueError("train.compiled_autograd goes on from a compiled forward pass; set train.compile=true too")
        if train.parallel == "deepspeed" and train.ema:
            raise ValueError("train.parallel=deepspeed keeps no moving average; set train.ema=0, or take ddp or fsdp")
        if train.parallel == "deepspeed" and train.dtype == "float16":
            raise ValueError("train.parallel=deepspeed trains in bfloat16 or float32; set train.dtype to one of them")
        return self
