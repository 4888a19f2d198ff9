"""Where tokens are: a backbone's grid of positions, brought to the grid that the tracker uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lorat.shards.errors import UserError

__all__ = ["resize_positions", "sincos_positions"]


def resize_positions(positions: Tensor, grid: int) -> Tensor:
    """Resample a square positional grid: bicubic, no antialiasing, in float32.

    Args:
        positions: (1, N, D), N a square number, rows one after another.
        grid: cells of a side of the result.

    Returns:
        (1, grid², D) float32; `positions` unchanged where the sizes are equal.
    """
    native = _side(positions)
    if native == grid:
        return positions.float()
    image = positions.float().view(1, native, native, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def sincos_positions(like: Tensor) -> Tensor:
    """Return fixed 2D positions (Chen et al., 2021): sines and cosines of the row and the column.

    Args:
        like: (1, side·side, D) positions whose shape and device to take; D a multiple of 4.
    """
    side, quarter = _side(like), like.shape[-1] // 4
    if like.shape[-1] % 4:
        raise UserError(
            f"initial_positions: sincos needs a width that 4 divides, not {like.shape[-1]}"
        )
    rates = 10000.0 ** (-torch.arange(quarter, device=like.device) / quarter)
    angles = torch.arange(side, device=like.device)[:, None] * rates
    waves = torch.cat((angles.sin(), angles.cos()), dim=1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat((rows, columns), dim=-1).reshape(1, side * side, -1)


def _side(positions: Tensor) -> int:
    return round(positions.shape[1] ** 0.5)
