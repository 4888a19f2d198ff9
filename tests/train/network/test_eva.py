"""EVA-02 under the tracker: places of both crops, the gated MLP, LoRA on every layer."""

import pytest
import timm
import torch
from timm.layers import RotaryEmbeddingCat
from torch import nn

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.train.network.blocks.eva import GatedFeedForward
from lorat.train.network.blocks.layers import Dense
from lorat.train.network.blocks.lora import LoraLinear, merge_adapters
from lorat.train.network.variants import assemble, hold_matrices_in
from tests.train.network.conftest import assert_gradients_reach_what_is_trained, crops

NAME = "eva02_base_patch14_224"
ARGS = {"embed_dim": 32, "depth": 3, "num_heads": 4}


def variant(**lora) -> VariantConfig:
    return VariantConfig(
        name="eva",
        backbone=BackboneConfig(timm=NAME, args=ARGS, layout="timm"),
        lora=LoraConfig(rank=4, alpha=4.0, **lora),
        template_size=112,
        search_size=224,
    )


def published_tokens(model, network, template, search, mask):
    """Tokens as the published system computes them, through timm's own blocks."""
    positions = model.pos_embed[:, 1:]
    corner = positions.view(1, 16, 16, -1)[:, :8, :8].flatten(1, 2)
    types = network.token_type_embed
    patches = [model.patch_embed.proj(i).flatten(2).transpose(1, 2) for i in (template, search)]
    z = patches[0] + corner + types[mask.flatten(1).long()]
    x = patches[1] + positions + types[2]
    ropes = [
        RotaryEmbeddingCat(8, in_pixels=False, feat_shape=[side, side], ref_feat_shape=model.rope.ref_feat_shape)
        for side in (8, 16)
    ]
    rope = torch.cat([r.get_embed() for r in ropes])
    tokens = torch.cat((z, x), dim=1)
    for block in model.blocks:
        block.attn.num_prefix_tokens = 0  # no class token here
        tokens = block(tokens, rope=rope)
    return tokens[:, 64:]


def test_the_template_is_stretched_over_the_places_of_the_search_crop():
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=0, **ARGS).eval()
    torch.manual_seed(0)
    network = assemble(variant().model_copy(update={"lora": None}), None).eval()
    with torch.no_grad():
        expected = network.head(published_tokens(model, network, *crops()))
        got = network(*crops())
    torch.testing.assert_close(got.score_map, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(got.boxes, expected[1], rtol=0, atol=1e-5)
    assert isinstance(network.norm, nn.Identity)


def test_rotations_are_no_part_of_the_weights():
    network = assemble(variant(), None)
    assert network.rotation.shape == (2, 64 + 256, 4)
    assert "rotation" not in network.state_dict()
    assert not any("rope" in name for name in network.state_dict())


def test_every_linear_layer_of_a_block_has_a_pair_and_merging_keeps_the_output():
    network = assemble(variant(), None).eval()
    pairs = {
        name.removeprefix("blocks.1.")
        for name, module in network.named_modules()
        if isinstance(module, LoraLinear) and name.startswith("blocks.1.")
    }
    attention = {"attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.proj"}
    assert pairs == attention | {"mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"}
    with torch.no_grad():
        before = network(*crops())
        merge_adapters(network)
        after = network(*crops())
    torch.testing.assert_close(after.score_map, before.score_map, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_every_pair(dtype):
    network = assemble(variant(), None).train()
    assert_gradients_reach_what_is_trained(network, crops(), dtype)


def test_bfloat16_weights_track_like_float32_and_norms_stay_float32():
    network = assemble(variant(), None).eval()
    merge_adapters(network)
    network.requires_grad_(False)
    exact = network(*crops())
    hold_matrices_in(network, torch.bfloat16)
    rough = network(*crops())
    assert network.blocks[0].attn.k_proj.weight.dtype == torch.bfloat16
    assert network.blocks[0].mlp.norm.weight.dtype == torch.float32
    torch.testing.assert_close(rough.score_map, exact.score_map, rtol=0, atol=0.02)


def test_the_gated_mlp_norms_what_the_gate_lets_through():
    mlp = GatedFeedForward(Dense(4, 6), Dense(4, 6), nn.LayerNorm(6), Dense(6, 4))
    x = torch.randn(3, 5, 4)
    hidden = torch.sigmoid(mlp.fc1_g(x)) * mlp.fc1_g(x) * mlp.fc1_x(x)
    torch.testing.assert_close(mlp(x), mlp.fc2(mlp.norm(hidden)))
