"""Small parts that every one-stream network here is made of.

Number types: matrices may be held in a smaller type; norms, scales and the residual stream stay float32.
Axes: B batch, T tokens, D channels, H heads, d channels of a head.
"""

import itertools
import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lorat.configs.schema import LoraConfig
from lorat.shards.base.machine import processor_name

_WIDE = 1 << 19  # scores of a head; fewer are all in the cache at once
_LARGE = 1 << 21  # multiplications; below it a product takes less time than the longer way into oneDNN costs
Layer = TypeVar("Layer", bound=nn.Module)
_Two = tuple[nn.Module, nn.Module]
Frames = Sequence[Tensor]
"""Tokens (B, T, D) of several images of the same samples, T differing."""


def replace_layers(root: nn.Module, kind: type[Layer], replace: Callable[[str, Layer], nn.Module]) -> None:
    """Replace every layer of a kind (subclasses included) below `root`, in place, by what `replace` makes of its path
    and itself; what that returns, the layer itself where it shall stay, is not searched.
    """
    for path, layer in [(path, layer) for path, layer in root.named_modules() if isinstance(layer, kind)]:
        root.set_submodule(path, replace(path, layer))


def constant(make: Callable[[], Tensor]) -> Tensor:
    """Compute a table on the processor and put it where modules are being made. On the meta device, the first such
    computation would import PyTorch's compiler.
    """
    device = torch.get_default_device()
    with torch.device("cpu"):
        return make().to(device)


def autocasts(x: Tensor) -> bool:
    """Whether autocast chooses the number type of products of x; it never does on meta tensors."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which products of x have the number type of their operands."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()


def operand(x: Tensor, layer: nn.Module) -> Tensor:
    """Return x in the number type of its product with `layer`; done before layers that share x, they share one copy."""
    weight = cast("Tensor", layer.weight)
    return x.to(torch.get_autocast_dtype(x.device.type) if autocasts(x) else weight.dtype)


@cache
def _is_onednn_faster() -> bool:
    """Whether this processor's float32 products are not for MKL, which keeps its best kernels for Intel's."""
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return is_x86 and torch.backends.mkldnn.is_available() and "Intel" not in processor_name()


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether to have ``x · weightᵀ`` computed by oneDNN itself; graphs and other kinds of tensors (fake, distributed)
    keep the operation that everybody knows.
    """
    if torch.compiler.is_compiling() or type(x) is not Tensor or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    # A part of a matrix that is turned round too would be left to a reference, a thousand times slower.
    is_whole = all(t.is_contiguous() or t.mT.is_contiguous() for t in (x, weight))
    return is_whole and x.numel() * weight.shape[0] >= _LARGE and _is_onednn_faster()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x · weightᵀ + bias`` (…, out) for x (…, in), as `F.linear` does but without gradients."""
    if _is_for_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def product_over_rows(wide: Tensor, narrow: Tensor) -> Tensor:
    """Return ``wideᵀ · narrow`` (w, n) for (N, w) and (N, n), w at least n, without gradients."""
    if _is_for_onednn(narrow.t(), wide.t()):
        return product(narrow.t(), wide.t()).t()
    return wide.t() @ narrow  # the long side first, which processors are quicker at


class Dense(nn.Linear):
    """A linear layer whose input takes the number type of its weight, unless autocast chooses."""

    def forward(self, x: Tensor, *stream: int) -> Tensor:
        """Return (…, out) for x (…, in), of whatever stream."""
        return self._linear(operand(x, self), self.weight, self.bias)

    def outputs(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return outputs `start` to `stop` alone, (…, stop - start), for x (…, in)."""
        bias = None if self.bias is None else self.bias[start:stop]
        return self._linear(operand(x, self), self.weight[start:stop], bias)

    @staticmethod
    def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias) if torch.is_grad_enabled() else product(x, weight, bias)

    @classmethod
    def of(cls, layer: nn.Linear) -> "Dense":
        """Return the layer in this form, with the same tensors."""
        return cls.holding(layer.weight, layer.bias)

    @classmethod
    def holding(cls, weight: Tensor, bias: Tensor | None) -> "Dense":
        """Wrap tensors that exist."""
        layer = cls(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight = nn.Parameter(weight)
        if bias is not None:
            layer.bias = nn.Parameter(bias)
        return layer


class Adapter(nn.Module):
    """A frozen linear layer with trained low-rank factors beside its weight (out, in) and bias (out,) or None, which
    may be in any float type. Several results side by side (query, key, value) may share the input; those that are
    targets, named `parts` in order (none where there is one result), have factors of their own. Parameters that hold
    factors, float32, have names that begin with ``lora_``.
    """

    def __init__(self, linear: nn.Linear, config: LoraConfig, results: tuple[str, ...] = ()) -> None:
        """Take over the tensors of a layer; where it has several results, name them, one or more of them targets."""
        super().__init__()
        slots = tuple(i for i, name in enumerate(results) if name in config.targets) or (0,)
        self.pairing = Pairing(slots, max(len(results), 1), config.scale)
        self.parts = tuple(results[slot] for slot in slots if results)
        self.config, self.dropout = config, config.dropout
        self.weight = linear.weight.requires_grad_(False)
        self.bias = None if linear.bias is None else linear.bias.requires_grad_(False)

    def factors(self) -> dict[str, Tensor]:
        """Return published name below the layer's → live tensor, or a view of one."""
        raise NotImplementedError

    def merged(self) -> nn.Module:
        """Return plain frozen layers that compute the same; the adapter itself where there are none."""
        return self


def is_factor(name: str) -> bool:
    """Whether a parameter's name is of an adapter's factors."""
    return ".lora_" in name


class Pairing(NamedTuple):
    """Which rows of a weight its factors are for: those of the parts numbered `slots`, of `results` of equal height."""

    slots: tuple[int, ...]
    results: int
    scale: float  # what multiplies the product


class PatchEmbedding(nn.Module):
    """A square image becomes a row of tokens, one a patch."""

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.proj = projection

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens (B, T, D), rows of patches one after another, for (B, 3, height, width)."""
        return self.proj(images.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


def is_identity(*modules: nn.Module | None) -> bool:
    """Whether none of the modules does anything."""
    return all(isinstance(module, nn.Identity | None) for module in modules)


def split_heads(x: Tensor, heads: int, count: int = 1) -> tuple[Tensor, ...]:
    """Split (B, T, count·H·d) into `count` tensors (B, H, T, d)."""
    return x.unflatten(-1, (count, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return scaled dot-product attention (B, H, T', d) of a query (B, H, T', d) and (B, H, T, d) key and value."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # PyTorch's fused kernel is three times slower here on processors without AMX.
        query = query * query.shape[-1] ** -0.5
        if query.shape[2] * key.shape[2] >= _WIDE and not torch.compiler.is_compiling():
            return _HeadByHead.apply(query, key, value)
        return (query @ key.transpose(-1, -2)).softmax(-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class _HeadByHead(torch.autograd.Function):
    """Attention of a scaled query, a head of a sample after the other: the scores of one stay in the processor's cache
    from product to softmax to product, those of all would go through memory each time.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, tokens, width = query.shape
        gathered = query.new_empty(batch, tokens, heads, width).transpose(1, 2)
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        kept = list[Tensor]()
        with without_autocast(query):
            for head in itertools.product(range(batch), range(heads)):
                shares = (query[head] @ key[head].t()).softmax(-1)
                gathered[head] = shares @ value[head]
                if any(ctx.needs_input_grad):
                    kept.append(shares)
        ctx.save_for_backward(query, key, value, *kept)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        query, key, value, *kept = ctx.saved_tensors
        grads = tuple(torch.empty_like(x) for x in (query, key, value))
        grad, heads = grad.contiguous(), itertools.product(range(query.shape[0]), range(query.shape[1]))
        with without_autocast(query):
            for head, shares in zip(heads, kept, strict=True):
                scores = torch._softmax_backward_data(grad[head] @ value[head].t(), shares, -1, shares.dtype)
                own = scores @ key[head], scores.t() @ query[head], shares.t() @ grad[head]
                for whole, part in zip(grads, own, strict=True):
                    whole[head] = part
        return grads


class FeedForward(nn.Module):
    """The plain MLP: two layers with an activation between them, which take the stream where there are several."""

    def __init__(self, fc1: nn.Module, act: nn.Module, fc2: nn.Module) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = fc1, act, fc2

    def forward(self, x: Tensor, *stream: int) -> Tensor:
        """Return (B, T, D)."""
        return self.fc2(self.act(self.fc1(x, *stream)), *stream)


class SwiGlu(nn.Module):
    """The gated MLP of ViT-g: silu of one half times the other."""

    def __init__(self, w12: nn.Module, w3: nn.Module) -> None:
        super().__init__()
        self.w12, self.w3 = w12, w3

    def forward(self, x: Tensor, *stream: int) -> Tensor:
        """Return (B, T, D)."""
        gate, content = self.w12(x, *stream).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * content, *stream)


class LayerScale(nn.Module):
    """A factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, D)."""
        return x * self.gamma


class QuickGelu(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (…)."""
        return x * torch.sigmoid(1.702 * x)


def add_residual(x: Tensor, branch: Callable[[Tensor], Tensor], drop_rate: float, skip: int = 0) -> Tensor:
    """Return ``x[:, skip:] + branch(x)`` under drop path, as DINOv2 trains, for x (B, T, D); the branch maps (B', T, D)
    to (B', T - skip, D). Outside training the rate is 0.
    """
    return add_residuals([x[:, skip:]], [x], lambda frames: [branch(frames[0])], drop_rate)[0]


def add_residuals(
    kept: Frames, frames: Frames, branch: Callable[[Frames], Sequence[Tensor]], drop_rate: float
) -> list[Tensor]:
    """Return each of `kept` with what the branch makes of all `frames` of the same samples added to it; samples are
    dropped from all alike. A rate up to 0.1 zeroes the branch of samples drawn one by one; above it the branch is
    computed for a random part of the batch alone. Either way the mean is kept.
    """
    x, batch = frames[0], frames[0].shape[0]
    if drop_rate == 0.0:
        return [own + new for own, new in zip(kept, branch(frames), strict=True)]
    if drop_rate <= 0.1:
        mask = x.new_empty(batch, 1, 1).bernoulli_(1.0 - drop_rate).div_(1.0 - drop_rate)
        return [own + new * mask for own, new in zip(kept, branch(frames), strict=True)]
    size = max(int(batch * (1.0 - drop_rate)), 1)
    chosen = torch.randperm(batch, device=x.device)[:size]
    return [
        own.index_add(0, chosen, new.to(own.dtype), alpha=batch / size)
        for own, new in zip(kept, branch([frame[chosen] for frame in frames]), strict=True)
    ]


class Block(nn.Module):
    """A pre-norm transformer block: attention, then an MLP, each added to what went in. Any attention serves that maps
    (B, T, D) and a number of leading tokens to skip to (B, T - skip, D), and any MLP that maps (B, T, D) to (B, T, D).
    """

    def __init__(self, attention: nn.Module, mlp: nn.Module, norms: _Two, scales: _Two, drop_path: float = 0.0) -> None:
        """Take over the parts; `norms` and `scales` are the attention's and the MLP's."""
        super().__init__()
        self.norm1, self.attn, self.ls1 = norms[0], attention, scales[0]
        self.norm2, self.mlp, self.ls2 = norms[1], mlp, scales[1]
        self.drop_path = drop_path

    def forward(self, x: Tensor, skip: int = 0, *context: Tensor) -> Tensor:
        """Return the tokens from `skip` on, (B, T - skip, D); attention takes `context` (EVA-02's rotations) too."""
        rate = self.drop_path if self.training else 0.0

        def gather(x: Tensor) -> Tensor:
            return self.ls1(self.attn(self.norm1(x), skip, *context))

        def think(x: Tensor) -> Tensor:
            return self.ls2(self.mlp(self.norm2(x)))

        return add_residual(add_residual(x, gather, rate, skip), think, rate)
