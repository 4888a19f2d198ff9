"""LoRAT: template and search tokens pass one transformer together; a head reads the search tokens.

Follows "Tracking Meets LoRA" (Lin et al., 2024) as its published system computes it: both crops
share one positional grid, of which the template takes the top-left corner, and a table of token
types tells background and foreground of the template and the search region apart.

Axes: B batch, T tokens, D channels; g and G are the sides of the template's and the search grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lorat.train.network.head import Head
from lorat.train.network.positions import resize_positions
from lorat.train.network.vit import Transformer

__all__ = ["LoRAT", "Prediction"]

SEARCH_TYPE = 2
"""Row of the token-type table; 0 is the template's background, 1 its foreground."""


class Prediction(NamedTuple):
    """What the network says of a search crop."""

    score_map: Tensor
    """(B, G, G) float32 logits."""
    boxes: Tensor
    """(B, G, G, 4) float32 xyxy in units of the search region."""


class LoRAT(nn.Module):
    """The tracker's network.

    Attributes:
        fingerprint: of the pretrained backbone's tensors; empty where there is none.
    """

    fingerprint: str = ""

    def __init__(
        self,
        backbone: Transformer,
        template_grid: int,
        search_grid: int,
        token_type_std: float = 0.02,
    ) -> None:
        """Take over the parts of `backbone`; its positions are resampled to the search grid."""
        super().__init__()
        self.template_grid = template_grid
        self.search_grid = search_grid
        positions = resize_positions(backbone.pos_embed.detach(), search_grid)
        width = positions.shape[-1]
        self.pos_embed = nn.Parameter(positions)
        self.token_type_embed = nn.Parameter(torch.empty(3, width))
        nn.init.trunc_normal_(self.token_type_embed, std=token_type_std)
        self.patch_embed = backbone.patch_embed
        self.blocks = backbone.blocks
        self.norm = backbone.norm
        self.head = Head(width, search_grid)

    def forward(self, template: Tensor, search: Tensor, template_mask: Tensor) -> Prediction:
        """Find the template's object in the search crop.

        Args:
            template: (B, 3, h, w) normalised RGB, h = w = patch size × g.
            search: (B, 3, H, W) normalised RGB, H = W = patch size × G.
            template_mask: (B, g, g) bool or integer, true on cells of the object.

        Returns:
            A prediction for every cell of the search grid.
        """
        return self.track(self.embed_template(template, template_mask), search)

    def embed_template(self, template: Tensor, template_mask: Tensor) -> Tensor:
        """Return the template's tokens (B, g·g, D); they serve any number of search crops."""
        side = self.search_grid
        corner = self.pos_embed.view(1, side, side, -1)[
            :, : self.template_grid, : self.template_grid
        ]
        # Not indexed by the mask: the gradient of indexing adds in an order that threads decide.
        background, foreground = self.token_type_embed[0], self.token_type_embed[1]
        types = torch.where(template_mask.flatten(1).bool()[..., None], foreground, background)
        return self.patch_embed(template) + corner.flatten(1, 2) + types

    def track(self, template_tokens: Tensor, search: Tensor) -> Prediction:
        """Find the object in a search crop.

        Args:
            template_tokens: (B, g·g, D) from `embed_template`.
            search: (B, 3, H, W) normalised RGB.
        """
        types = self.token_type_embed[SEARCH_TYPE]
        search_tokens = self.patch_embed(search) + self.pos_embed + types
        x = torch.cat((template_tokens, search_tokens), dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        # Nothing reads the template's tokens after the last block's attention.
        x = self.blocks[-1](x, skip=template_tokens.shape[1])
        return Prediction(*self.head(self.norm(x)))
