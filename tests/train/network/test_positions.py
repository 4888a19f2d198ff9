"""Positions of both published systems, and rotations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import RotaryEmbeddingCat, apply_rot_embed_cat, resample_abs_pos_embed

from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.positions import (
    Rotary,
    corner,
    place_positions,
    resize_positions,
    rotate,
    sincos_positions,
)

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("grid", [16, 27])
def test_positions_are_resampled_as_published(grid):
    arrays = np.load(GOLDEN / "g4_pos_embed.npz")
    positions = torch.from_numpy(arrays["pos_embed"])
    for resized in (resize_positions(positions, grid), place_positions(positions, grid, "official")):
        np.testing.assert_allclose(resized, arrays[f"to_{grid}"], rtol=0, atol=1e-6)


def test_positions_of_the_same_grid_stay_as_they_are():
    positions = torch.randn(1, 37 * 37, 3)
    for layout in ("official", "timm"):
        assert torch.equal(place_positions(positions, 37, layout), positions)


@pytest.mark.parametrize("grid", [16, 27])
def test_timm_layout_keeps_a_larger_grid_and_crops_take_its_corner(grid):
    positions = torch.randn(1, 37 * 37, 3)
    placed = place_positions(positions, grid, "timm")
    assert torch.equal(placed, positions)
    expected = positions.view(37, 37, 3)[:grid, :grid].reshape(1, -1, 3)
    assert torch.equal(corner(placed, grid), expected)


@pytest.mark.parametrize("grid", [16, 24, 27])
def test_timm_layout_resamples_a_smaller_grid_as_timm_does(grid):
    positions = torch.randn(1, 14 * 14, 5)
    expected = resample_abs_pos_embed(positions, [grid, grid], [14, 14], 0)
    torch.testing.assert_close(place_positions(positions, grid, "timm"), expected)
    assert not torch.allclose(place_positions(positions, grid, "official"), expected, atol=1e-3)


def test_corner_of_the_whole_grid_is_all_of_it():
    positions = torch.randn(1, 9, 2)
    assert torch.equal(corner(positions, 3), positions)
    assert corner(positions, 2).tolist() == positions[:, [0, 1, 3, 4]].tolist()


@pytest.mark.parametrize("reference", [16, None])
def test_rotations_are_those_of_timm_grid_after_grid(reference):
    table = Rotary(channels=24, reference=reference).table((8, 16))
    theirs = []
    for grid in (8, 16):
        rope = RotaryEmbeddingCat(
            24, in_pixels=False, feat_shape=[grid, grid], ref_feat_shape=reference and [reference, reference]
        )
        theirs.append(rope.get_embed())
    expected = torch.cat(theirs)
    assert table.shape == (2, 8 * 8 + 16 * 16, 12)
    doubled = torch.cat([wave.repeat_interleave(2, dim=-1) for wave in table], dim=-1)
    torch.testing.assert_close(doubled, expected, rtol=0, atol=2e-6)
    x = torch.randn(2, 3, 320, 24)
    torch.testing.assert_close(rotate(x, table), apply_rot_embed_cat(x, expected), rtol=0, atol=1e-5)


def test_scores_of_rotated_tokens_depend_on_how_far_apart_they_are():
    table = Rotary(channels=16, reference=None).table((6,))
    query, key = torch.randn(2, 1, 1, 1, 16).expand(-1, -1, -1, 36, -1)
    turned = [rotate(x, table).view(6, 6, 16) for x in (query, key)]
    near = turned[0][1, 2] @ turned[1][3, 1]
    shifted = turned[0][2, 4] @ turned[1][4, 3]
    other = turned[0][1, 2] @ turned[1][1, 5]
    torch.testing.assert_close(near, shifted)
    assert not torch.allclose(near, other, atol=1e-3)


def test_rotation_keeps_the_number_type():
    table = Rotary(channels=8, reference=4).table((4,))
    x = torch.randn(1, 2, 16, 8)
    rough = rotate(x.bfloat16(), table)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), rotate(x, table), rtol=0, atol=0.03)


def test_sine_positions_tell_every_token_apart_and_neighbours_are_alike():
    positions = sincos_positions(torch.zeros(1, 64, 32))[0]
    apart = torch.cdist(positions, positions).fill_diagonal_(torch.inf)
    assert apart.min() > 0.3
    grid = positions.view(8, 8, 32)
    near = (grid[3, 3] - grid[3, 4]).norm()
    assert near < (grid[3, 3] - grid[3, 7]).norm()
    torch.testing.assert_close(grid[2, 5, :16], grid[2, 0, :16])
    torch.testing.assert_close(grid[2, 5, 16:], grid[0, 5, 16:])


def test_sine_positions_need_a_width_that_four_divides():
    with pytest.raises(UserError, match="not 30"):
        sincos_positions(torch.zeros(1, 4, 30))
