"""Attention of a network that is trained from scratch starts as trained attention looks."""

import pytest
import torch

from lorat.configs.load import load_variant
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.layers import attend
from lorat.train.network.variants import build_network
from lorat.train.network.weights.mimetic import mimetic_attention
from lorat.train.network.weights.timm_models import timm_model


def test_values_and_projection_are_a_draw_around_a_negative_identity():
    torch.manual_seed(0)
    width = 96
    drawn = mimetic_attention(width, 3)
    product = drawn.proj @ drawn.qkv[2 * width :]
    assert product.diagonal().mean() == pytest.approx(-0.4, abs=0.02)
    beside = product[~torch.eye(width, dtype=torch.bool)]
    assert beside.mean().abs() < 0.01 and beside.std() == pytest.approx(0.4 / width**0.5, rel=0.05)


@pytest.mark.parametrize("heads", [1, 4])
def test_a_token_attends_to_tokens_like_itself(heads):
    torch.manual_seed(0)
    width = 128
    tokens = torch.nn.functional.layer_norm(torch.randn(1, 16, width), (width,))
    query, key, _ = (tokens @ mimetic_attention(width, heads).qkv.T).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    shares = attend(query, key, torch.eye(16).expand(1, heads, 16, 16))[0]  # of each token in each other
    assert (shares.argmax(dim=-1) == torch.arange(16)).float().mean() > 0.9


def test_only_a_variant_that_asks_for_it_starts_so():
    torch.manual_seed(0)
    found = {}
    for name in ("toy", "demo"):
        attention = build_network(load_variant(name)).blocks[-1].attn
        found[name] = (attention.proj.weight @ attention.qkv.weight[256:]).diagonal().mean().item()
    assert found["demo"] == pytest.approx(-0.4, abs=0.03) and abs(found["toy"]) < 0.05


def test_a_layer_with_queries_and_keys_apart_is_refused_by_name():
    config = load_variant("eva02-B-224").backbone.model_copy(
        update={"pretrained": False, "initial_attention": "mimetic", "args": {"depth": 1, "img_size": 56}}
    )
    with pytest.raises(UserError, match="initial_attention to timm"):
        timm_model(config)
