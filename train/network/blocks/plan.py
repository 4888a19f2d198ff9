"""What a backbone is built from: numbers and kinds of parts, as weights files keep them.

With a plan a network is built without timm, whose import takes longer than PyTorch's.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lorat.train.network.blocks.positions import Rotary

_Positive = Annotated[int, Field(gt=0)]
_Count = Annotated[int, Field(ge=0)]

Activation = Literal["gelu", "quick_gelu", "silu"]
ExtraNorm = Literal["pre", "mlp", "last"]


class Plan(BaseModel):
    """A backbone of ours. What is the same in all of them, such as the layer norm before each half of a block, is not
    said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    width: _Positive
    depth: _Positive
    heads: _Positive
    patch: _Positive
    """Pixels of a patch's side."""
    grid: _Count
    """Cells of a side of the learned positions; 0 where there are none."""
    class_token: bool
    registers: _Count
    attention: Literal["joint", "apart"]
    """Query, key and value as one product, or (EVA-02) as three."""
    mlp: Literal["plain", "swiglu", "eva"]
    hidden: _Positive
    """Channels that the MLP's last layer reads."""
    activation: Activation
    norms: tuple[ExtraNorm, ...]
    """Which there are of the norms that not every backbone has: before the blocks, inside EVA-02's MLP, at the end."""
    epsilon: float
    """Of every norm."""
    layer_scale: bool
    unbiased: tuple[str, ...]
    """Layers without a bias: names in a block, and patch_embed."""
    rotary: Rotary | None
