"""The head: a score and a box for every cell of the search region.

Promise: logits become float32 before the sigmoid, whatever the network computes in. Boxes are not clipped; near the
border they may leave the search region.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorat.train.network.blocks.layers import Dense, constant


class Mlp(nn.Module):
    """Three layers with GELU between them."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Dense(width, height) for height in (width, width, out))
        for name, parameter in self.layers.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) for x (…, width)."""
        first, second, last = self.layers
        return last(F.gelu(second(F.gelu(first(x)))))


class Head(nn.Module):
    """Two independent MLPs on each search token: is the object's box here, and where it ends."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.grid, self.cls_mlp, self.reg_mlp = grid, Mlp(width, 1), Mlp(width, 4)
        self.register_buffer("centres", constant(lambda: _centres(grid)), persistent=False)
        self.register_buffer("signs", torch.tensor([-1.0, -1.0, 1.0, 1.0]), persistent=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return score logits (B, G, G) and boxes (B, G, G, 4), float32, for (B, G·G, D) tokens, row by row. Boxes are
        xyxy in units of the search region: a cell's centre minus and plus the sigmoid of its four logits.
        """
        shape = (tokens.shape[0], self.grid, self.grid)
        score = self.cls_mlp(tokens).float().view(shape)
        distances = self.reg_mlp(tokens).float().sigmoid().view(*shape, 4)
        return score, self.centres.float() + self.signs.float() * distances


def _centres(grid: int) -> Tensor:
    """Return (G, G, 4): a cell's centre, twice, in units of the search region."""
    centre = (torch.arange(grid, dtype=torch.float32) + 0.5) / grid
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack((x, y, x, y), dim=-1)
