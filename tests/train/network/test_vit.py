from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from lorat.configs.schema import BackboneConfig
from lorat.shards.errors import UserError
from lorat.train.network.layers import add_residual, attend
from lorat.train.network.positions import resize_positions, sincos_positions
from lorat.train.network.vit import Transformer

GOLDEN = Path(__file__).parents[2] / "golden"
ARGS = {"embed_dim": 32, "depth": 2, "num_heads": 4, "init_values": 0.5}


@pytest.mark.parametrize("grid", [16, 27])
def test_positions_are_resampled_as_published(grid):
    arrays = np.load(GOLDEN / "g4_pos_embed.npz")
    resized = resize_positions(torch.from_numpy(arrays["pos_embed"]), grid)
    np.testing.assert_allclose(resized, arrays[f"to_{grid}"], rtol=0, atol=1e-6)


def test_positions_of_the_same_grid_stay_as_they_are():
    positions = torch.randn(1, 37 * 37, 3)
    assert torch.equal(resize_positions(positions, 37), positions)


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_dinov2", "vit_giant_patch14_dinov2", "vit_base_patch16_224.mae"]
)
def test_blocks_compute_what_those_of_timm_compute(name):
    config = BackboneConfig(timm=name, args=ARGS, pretrained=False)
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=0, **ARGS).eval()
    torch.manual_seed(0)
    ours = Transformer(config).eval()
    x = torch.randn(2, 9, 32)
    expected, got = x, x
    for a, b in zip(theirs.blocks, ours.blocks, strict=True):
        expected, got = a(expected), b(got)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
def test_skipped_tokens_do_not_change_the_others(rate):
    block = Transformer(
        BackboneConfig(timm="vit_small_patch14_dinov2", args=ARGS), drop_path=rate
    ).blocks[0]
    x = torch.randn(4, 9, 32)
    torch.manual_seed(5)
    whole = block(x)
    torch.manual_seed(5)
    torch.testing.assert_close(block(x, skip=3), whole[:, 3:], rtol=1e-5, atol=1e-5)


def test_low_drop_path_zeroes_whole_samples_and_keeps_the_mean():
    x = torch.zeros(20000, 1, 1)
    torch.manual_seed(0)
    out = add_residual(x, torch.ones_like, 0.1).flatten()
    assert {round(v, 5) for v in out.unique().tolist()} == {0.0, round(1 / 0.9, 5)}
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("batch", "rate", "size"), [(10, 0.4, 6), (5, 0.4, 3), (1, 0.9, 1)])
def test_high_drop_path_runs_the_branch_on_a_part_of_the_batch(batch, rate, size):
    seen = []

    def branch(x):
        seen.append(len(x))
        return torch.ones_like(x)

    out = add_residual(torch.zeros(batch, 2, 3), branch, rate)
    assert seen == [size]
    per_sample = out[:, 0, 0]
    assert (per_sample > 0).sum() == size
    assert per_sample.sum().item() == pytest.approx(batch)


def test_drop_path_acts_in_training_only():
    config = BackboneConfig(timm="vit_small_patch14_dinov2", args=ARGS)
    block = Transformer(config, drop_path=0.4).blocks[0].eval()
    x = torch.randn(4, 9, 32)
    assert torch.equal(block(x), block(x))


def test_bfloat16_attention_on_a_processor_is_close_to_float32():
    query, key, value = torch.randn(3, 2, 4, 50, 16)
    exact = F.scaled_dot_product_attention(query, key, value)
    rough = attend(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    "name", ["eva02_tiny_patch14_224", "vit_base_patch16_clip_224", "resnet18", "no_such_model"]
)
def test_other_backbones_are_refused_by_name(name):
    with pytest.raises(UserError, match=name), torch.device("meta"):
        Transformer(BackboneConfig(timm=name, pretrained=False))


def test_wrong_backbone_arguments_are_a_users_error():
    config = BackboneConfig(timm="vit_small_patch14_dinov2", args={"embed_dims": 3})
    with pytest.raises(UserError, match="embed_dims"):
        Transformer(config)


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
