"""One-stream trackers, and LoRAT: template and search tokens pass one transformer together; a head reads the search
tokens.

LoRAT follows "Tracking Meets LoRA" (Lin et al., 2024) as its published system computes it.
Axes: B batch, T tokens, P class and register tokens, D channels; g and G are the sides of the template's and the
search grid.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorat.train.network.blocks.head import Head
from lorat.train.network.blocks.layers import constant
from lorat.train.network.blocks.positions import Rotary, corner, place_positions
from lorat.train.network.blocks.vit import Transformer

SEARCH_TYPE = 2  # row of the token-type table; 0 is the template's background, 1 its foreground


class Prediction(NamedTuple):
    """What the network says of a search crop."""

    score_map: Tensor  # (B, G, G) float32 logits
    boxes: Tensor  # (B, G, G, 4) float32 xyxy in units of the search region


class Tracked(NamedTuple):
    """What a frame gives: where the object is, and what the tracker is to be told at the next one."""

    prediction: Prediction
    state: Tensor | None  # (B, …); of trackers that carry none, None


class OneStream(nn.Module, ABC):
    """What the networks of all trackers have in common. Crops share one grid of positions, of which each takes the
    top-left corner, and a table of token types tells background and foreground of a template and the search region
    apart.
    """

    fingerprint: str = ""  # of the pretrained backbone's tensors; empty where there is none
    checkpoint_activations: bool = False
    """Whether training keeps the inputs of blocks alone, and computes the rest again in the backward pass."""
    prefix_tokens: nn.Parameter | None  # the backbone's class and register tokens (1, P, D), where they are kept
    pos_embed: nn.Parameter | None  # (1, at least G·G, D)
    rotation: Tensor | None  # sines and cosines of all tokens' places, for backbones with rotary positions

    def __init__(self, backbone: Transformer, template_grid: int, search_grid: int, token_type_std: float) -> None:
        """Take over the parts of `backbone`; its positions are brought to the search grid."""
        super().__init__()
        self.template_grid, self.search_grid, self.plan = template_grid, search_grid, backbone.plan
        self.register_parameter("prefix_tokens", backbone.prefix_tokens)
        self.register_parameter("pos_embed", None)
        if backbone.pos_embed is not None:
            placed = place_positions(backbone.pos_embed.detach(), search_grid, backbone.config.layout)
            self.pos_embed = nn.Parameter(placed)
        width, rotary = backbone.plan.width, backbone.plan.rotary
        rotation = None if rotary is None else constant(lambda: self._rotations(rotary))
        self.register_buffer("rotation", rotation, persistent=False)
        self.token_type_embed = nn.Parameter(torch.empty(3, width))
        nn.init.trunc_normal_(self.token_type_embed, std=token_type_std)
        self.patch_embed, self.norm_pre = backbone.patch_embed, backbone.norm_pre
        self.blocks, self.norm, self.head = backbone.blocks, backbone.norm, Head(width, search_grid)

    @abstractmethod
    def predict(
        self, template: Tensor, template_mask: Tensor, search: Tensor, reference: Tensor | None = None
    ) -> tuple[Prediction, ...]:
        """Return a prediction for each search crop of training samples, in order. Crops are normalised RGB: N templates
        (B, N, 3, h, w), h = w = patch size × g, S search crops (B, S, 3, H, W), H = W = patch size × G, and, where the
        tracker has one, a reference (B, 3, r, r). Masks (B, N, g, g), bool or integer, are true on cells of the object.
        """

    @abstractmethod
    def remember(self, template: Tensor, template_mask: Tensor, reference: Tensor | None = None) -> Tensor:
        """Return what templates, and a reference where there is one, leave for a sequence's search crops: a tensor
        (B, …) for inputs as `predict` takes them.
        """

    @abstractmethod
    def follow(self, memory: Tensor, search: Tensor, state: Tensor | None = None) -> Tracked:
        """Find the object of a memory from `remember` in a search crop (B, 3, H, W), normalised RGB, with the state
        that the sequence's frame before left; None for its first.
        """

    @property
    @abstractmethod
    def tokens(self) -> int:
        """How many tokens pass the blocks for a frame that is tracked."""

    @property
    def new_parts(self) -> tuple[nn.Module | nn.Parameter, ...]:
        """What is trained beside adapters: what is new to the backbone, and a norm before the blocks."""
        return self.token_type_embed, self.norm_pre, self.head

    @property
    def template_length(self) -> int:
        """How many tokens `embed_template` gives."""
        return self.template_grid**2 + (0 if self.prefix_tokens is None else self.prefix_tokens.shape[1])

    def embed_template(self, template: Tensor, template_mask: Tensor) -> Tensor:
        """Return the tokens (B, P + g·g, D) of normalised templates (B, 3, h, w) with masks (B, g, g), the backbone's
        own P before them where they are kept; they serve any number of search crops.
        """
        table = self.token_type_embed
        # Not indexed by the mask: the gradient of indexing adds in an order that threads decide.
        types = torch.where(template_mask.flatten(1).bool()[..., None], table[1], table[0])
        tokens = self._embed(template, self.template_grid) + types
        if self.prefix_tokens is None:
            return tokens
        prefix = self.norm_pre(self.prefix_tokens).expand(tokens.shape[0], -1, -1)
        return torch.cat((prefix, tokens), dim=1)

    def _embed(self, images: Tensor, grid: int) -> Tensor:
        """Return a crop's tokens (B, grid², D) without their types."""
        tokens = self.patch_embed(images)
        return self.norm_pre(tokens if self.pos_embed is None else tokens + corner(self.pos_embed, grid))

    def _embed_search(self, search: Tensor) -> Tensor:
        return self._embed(search, self.search_grid) + self.token_type_embed[SEARCH_TYPE]

    def _rotations(self, rotary: Rotary) -> Tensor:
        """Return the table of sines and cosines of all tokens, in the order in which they pass the blocks."""
        return rotary.table((self.template_grid, self.search_grid), self.template_length - self.template_grid**2)

    def _pass(self, before: Tensor, tokens: Tensor) -> Tensor:
        """Let all tokens pass the blocks, and return the last ones (B, T, D), normed."""
        context = () if self.rotation is None else (self.rotation,)
        x = torch.cat((before, tokens), dim=1)
        for number, block in enumerate(self.blocks, start=1):
            # Nothing reads the others after the last block's attention.
            x = self._run(block, x, before.shape[1] if number == len(self.blocks) else 0, *context)
        return self.norm(x)

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        """Return what a block gives; its activations are kept for the backward pass, or only its inputs."""
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


class LoRAT(OneStream):
    """The network of LoRAT: one template, one search crop."""

    @property
    def tokens(self) -> int:
        """How many tokens pass the blocks for a frame."""
        return self.template_length + self.search_grid**2

    def forward(self, template: Tensor, search: Tensor, template_mask: Tensor) -> Prediction:
        """Find the template's object in the search crop, both normalised RGB: (B, 3, h, w), h = w = patch size × g, and
        (B, 3, H, W), H = W = patch size × G; the mask (B, g, g), bool or integer, is true on cells of the object.
        """
        return self.track(self.embed_template(template, template_mask), search)

    def predict(
        self, template: Tensor, template_mask: Tensor, search: Tensor, reference: Tensor | None = None
    ) -> tuple[Prediction, ...]:
        """Find the only template's object in the only search crop."""
        return (self(template[:, 0], search[:, 0], template_mask[:, 0]),)

    def remember(self, template: Tensor, template_mask: Tensor, reference: Tensor | None = None) -> Tensor:
        """Return the only template's tokens."""
        return self.embed_template(template[:, 0], template_mask[:, 0])

    def follow(self, memory: Tensor, search: Tensor, state: Tensor | None = None) -> Tracked:
        """Find the object of a template's tokens."""
        return Tracked(self.track(memory, search), None)

    def track(self, template_tokens: Tensor, search: Tensor) -> Prediction:
        """Find the object of tokens from `embed_template` in a search crop, (B, 3, H, W) normalised RGB."""
        return Prediction(*self.head(self._pass(template_tokens, self._embed_search(search))))
