"""A backbone's positions brought to the grid that the tracker uses; grids are square, row after row.
Axes: N, M and T tokens, D channels, d channels of a head, G cells of a side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lorat.shards.base.errors import UserError


def place_positions(positions: Tensor, grid: int, layout: Literal["official", "timm"]) -> Tensor:
    """Bring a backbone's positions (1, N, D) to a grid of which every crop takes the top-left `corner`. Returned are
    (1, M, D) float32, M at least grid², the cells of a search crop. Two published systems differ. "official" resamples
    the native grid to the search grid, without antialiasing. "timm" keeps the native grid, unless it is smaller than
    the search grid; then it resamples it, with antialiasing.
    """
    if layout == "timm" and _side(positions) >= grid:
        return positions.float()
    return resize_positions(positions, grid, antialias=layout == "timm")


def corner(positions: Tensor, grid: int) -> Tensor:
    """Return the top-left grid × grid cells of a square grid: (1, grid², D) of (1, N, D)."""
    side = _side(positions)
    if side == grid:
        return positions
    return positions.unflatten(1, (side, side))[:, :grid, :grid].flatten(1, 2)


def resize_positions(positions: Tensor, grid: int, antialias: bool = False) -> Tensor:
    """Resample a square positional grid (1, N, D), bicubic, to (1, grid², D) float32; of the same size it stays. With
    antialiasing a smaller result is smoothed first, and the bicubic weights are others for a larger one, too.
    """
    native = _side(positions)
    if native == grid:
        return positions.float()
    if positions.is_meta:  # PyTorch would import its compiler for the shape alone
        return positions.new_empty(1, grid * grid, positions.shape[2], dtype=torch.float32)
    image = positions.float().view(1, native, native, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False, antialias=antialias)
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def sincos_positions(like: Tensor) -> Tensor:
    """Return fixed 2D positions (Chen et al., 2021), sines and cosines of row and column, shaped as those `like`."""
    quarter = like.shape[-1] // 4
    if like.shape[-1] % 4:
        raise UserError(f"initial_positions: sincos needs a width that 4 divides, not {like.shape[-1]}")
    rates = 10000.0 ** (-torch.arange(quarter, device=like.device) / quarter)
    angles = torch.arange(_side(like), device=like.device)[:, None] * rates
    return _rows_and_columns(torch.cat((angles.sin(), angles.cos()), dim=1))[None]


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions of a grid (Su et al., 2021; Fang et al., 2023). Half of a head's pairs of channels are turned by
    the row, the other half by the column; pair k of a half turns by ``place / temperature ** (4·k / d)``.
    """

    channels: int  # of a head; a multiple of 4
    reference: int | None  # cells of a side that every grid is stretched to; None leaves places as they are
    temperature: float = 10000.0
    centred: bool = False  # every grid reaches from -2π to 2π, its cells' middles counting (Siméoni et al., 2025)

    def table(self, grids: Sequence[int], prefix: int = 0) -> Tensor:
        """Return sines and cosines, (2, T, d / 2) float32: for `prefix` tokens without a place, which are not turned,
        and then for square grids one after another.
        """
        angles = torch.cat([torch.zeros(prefix, self.channels // 2), *map(self._angles, grids)])
        return torch.stack((angles.sin(), angles.cos()))

    def _angles(self, grid: int) -> Tensor:
        places = torch.arange(grid, dtype=torch.float32)
        if self.centred:
            places = 2 * math.pi * (2 * ((places + 0.5) / grid) - 1)
        elif self.reference is not None:
            places = places / grid * self.reference
        quarter = self.channels // 4
        rates = self.temperature ** (-torch.arange(quarter, dtype=torch.float32) / quarter)
        return _rows_and_columns(places[:, None] * rates)


def rotate(x: Tensor, table: Tensor, *, halves: bool = False) -> Tensor:
    """Turn pairs of channels of queries or keys x (B, H, T, d) by their tokens' angles, in the number type of x. A pair
    are neighbours, or one channel of each half. The table holds (2, T, d / 2) float32 sines and cosines; the products
    are formed in float32.
    """
    sine, cosine = table.unbind(0)
    shape, axis = ((2, -1), -2) if halves else ((-1, 2), -1)
    first, second = x.unflatten(-1, shape).unbind(axis)
    turned = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=axis)
    return turned.flatten(-2).to(x.dtype)


def _rows_and_columns(values: Tensor) -> Tensor:
    """Return (G·G, 2·n) for (G, n) values of places: every cell's row's and then its column's."""
    side = len(values)
    rows, columns = values[:, None].expand(-1, side, -1), values[None].expand(side, -1, -1)
    return torch.cat((rows, columns), dim=-1).flatten(0, 1)


def _side(positions: Tensor) -> int:
    return round(positions.shape[1] ** 0.5)
