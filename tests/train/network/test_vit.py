"""Blocks and backbones compute what timm's do; what cannot be computed is refused by name."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from lorat.configs.schema import BackboneConfig, LoraConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks import layers
from lorat.train.network.blocks.layers import Dense, add_residual, attend
from lorat.train.network.blocks.lora import add_adapters
from lorat.train.network.blocks.positions import place_positions
from lorat.train.network.blocks.vit import Attention, Transformer, drop_rates
from tests.train.network.conftest import transformer_of

ARGS = {"embed_dim": 32, "depth": 2, "num_heads": 4}
FAMILIES = {
    "vit_small_patch14_dinov2": {"init_values": 0.5, "img_size": 56},
    "vit_giant_patch14_dinov2": {"init_values": 0.5, "img_size": 56},
    "vit_base_patch16_clip_quickgelu_224": {"img_size": 64},
    "vit_base_patch16_224.mae": {"img_size": 64},
    "eva02_base_patch14_224": {"img_size": 56},
    "vit_small_patch16_dinov3": {"init_values": 0.5, "img_size": 64, "num_reg_tokens": 0},
}
GATED = {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}
SCALES = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}


def small(name: str) -> BackboneConfig:
    """A backbone of four by four patches that timm computes without a class token, too."""
    pool = {"class_token": False, "global_pool": "avg"}
    pool |= {} if name.startswith("eva02") or "dinov3" in name else {"fc_norm": False}
    return BackboneConfig(timm=name, args=ARGS | FAMILIES[name] | pool, pretrained=False)


def twins(name: str):
    """timm's model with invented values, and ours with the same ones."""
    config = small(name)
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=0, **config.args).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = transformer_of(config).eval()
    state = {}
    for key, tensor in theirs.state_dict().items():
        for old, new in (SCALES | (GATED if "giant" in name else {})).items():
            key = key.replace(old, new)
        state[key] = tensor
    state = {key: tensor for key, tensor in state.items() if not key.startswith("fc_norm.")}
    ours.load_state_dict(state)
    return theirs, ours


def dinov2(drop_path: float = 0.0) -> Transformer:
    args = ARGS | {"init_values": 0.5}
    return transformer_of(BackboneConfig(timm="vit_small_patch14_dinov2", args=args), drop_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_computes_what_timm_computes(name):
    theirs, ours = twins(name)
    image = torch.randn(2, 3, *[FAMILIES[name]["img_size"]] * 2)
    context = () if ours.plan.rotary is None else (ours.plan.rotary.table((4,)),)
    with torch.no_grad():
        x = ours.patch_embed(image)
        if ours.pos_embed is not None:
            x = x + place_positions(ours.pos_embed, 4, "official")
        x = ours.norm_pre(x)
        for block in ours.blocks:
            x = block(x, 0, *context)
        torch.testing.assert_close(ours.norm(x), theirs.forward_features(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
def test_skipped_tokens_do_not_change_the_others(name, rate):
    network = transformer_of(small(name), rate)
    block = network.blocks[-1]
    context = () if network.plan.rotary is None else (network.plan.rotary.table((1, 2, 2)),)
    x = torch.randn(4, 9, 32)
    torch.manual_seed(5)
    whole = block(x, 0, *context)
    torch.manual_seed(5)
    torch.testing.assert_close(block(x, 3, *context), whole[:, 3:], rtol=1e-5, atol=1e-5)


def test_only_the_tokens_that_ask_pass_the_query_projection():
    torch.manual_seed(0)
    attention = Attention(Dense(32, 96), Dense(32, 32), heads=4)
    x = torch.randn(2, 9, 32, requires_grad=True)
    whole = attention(x)[:, 3:]
    got = attention(x, 3)
    torch.testing.assert_close(got, whole, rtol=1e-5, atol=1e-6)
    wanted = (x, attention.qkv.weight, attention.qkv.bias)
    push = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, wanted, push), torch.autograd.grad(whole, wanted, push), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    seen = []
    attention.qkv.outputs = lambda x, a, b: seen.append((x.shape[1], b - a)) or x.repeat(1, 1, (b - a) // 32)
    attention(x, 3)
    assert seen == [(6, 32), (9, 64)]


def test_skipped_tokens_do_not_change_the_others_under_an_adapter():
    block = dinov2().blocks[0]
    add_adapters(nn.ModuleList([block]), LoraConfig(rank=4))
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(block(x, 3), block(x)[:, 3:], rtol=1e-5, atol=1e-5)


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
    block = dinov2(drop_path=0.4).blocks[0].eval()
    x = torch.randn(4, 9, 32)
    assert torch.equal(block(x), block(x))


def test_drop_path_is_the_same_everywhere_or_grows_with_depth():
    assert drop_rates("official", 0.4, 4) == [0.4] * 4
    assert drop_rates("timm", 0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert max(drop_rates("timm", 0.1, 24)) == 0.1  # above it, part of the batch would be left out
    assert drop_rates("timm", 0.4, 1) == [0.0]
    config = BackboneConfig(timm="vit_small_patch14_dinov2", args=ARGS, layout="timm")
    assert [block.drop_path for block in transformer_of(config, 0.4).blocks] == [0.0, 0.4]


def test_bfloat16_attention_on_a_processor_is_close_to_float32():
    query, key, value = torch.randn(3, 2, 4, 50, 16)
    exact = F.scaled_dot_product_attention(query, key, value)
    rough = attend(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.03)


def test_wide_attention_goes_head_by_head_and_gives_the_same_numbers(monkeypatch):
    torch.manual_seed(0)
    shapes = (2, 3, 5, 16), (2, 3, 9, 16), (2, 3, 9, 16)
    found = []
    for limit in (layers._WIDE, 1):
        monkeypatch.setattr(layers, "_WIDE", limit)
        torch.manual_seed(1)
        inputs = [torch.randn(shape, dtype=torch.bfloat16).requires_grad_() for shape in shapes]
        gathered = attend(*inputs)
        assert ("HeadByHead" in type(gathered.grad_fn).__name__) == (limit == 1)
        slope = torch.randn(gathered.shape, dtype=torch.bfloat16)
        found.append((gathered, *torch.autograd.grad(gathered, inputs, slope)))
    torch.testing.assert_close(*found, rtol=0, atol=1e-2)
    with torch.inference_mode():
        torch.testing.assert_close(attend(*inputs), found[1][0], rtol=0, atol=0)


REFUSED = {
    "resnet18": ({}, "ResNet"),
    "no_such_model": ({}, "timm cannot build it"),
    "vit_small_patch14_dinov2": ({"qk_norm": True}, "query and key norms"),
    "vit_small_patch14_reg4_dinov2": ({"proj_drop_rate": 0.1}, "dropout"),
    "vit_base_patch14_dinov2": ({"drop_path_rate": 0.1}, "drop_path of the variant"),
    "vit_large_patch14_dinov2": ({"pos_embed": "none"}, "no learned positions"),
    "vit_base_patch16_224.mae": ({"scale_mlp_norm": True}, "a norm inside the MLP"),
    "vit_large_patch16_224.mae": ({"img_size": (224, 448)}, "oblong"),
    "vit_huge_patch14_224.mae": ({"patch_drop_rate": 0.5}, "dropped patches"),
    "vit_base_patch16_rpn_224": ({}, "blocks of type ResPostBlock"),
    "vit_tiny_r_s16_p8_224": ({}, "patches of type HybridEmbed"),
    "eva02_tiny_patch14_224": ({}, "EvaAttention with GluMlp|fused query"),
    "eva02_base_patch14_224": ({"qk_norm": True}, "query and key norms"),
    "eva02_large_patch14_224": ({"use_rot_pos_emb": False}, "positions of type NoneType"),
    "vit_small_patch16_dinov3": ({"use_abs_pos_emb": True}, "learned positions beside rotary ones"),
    "vit_base_patch16_dinov3": ({"rope_rotate_half": False}, "rotary rotate_half"),
    "vit_large_patch16_dinov3": ({"qkv_fused": False}, "separate query, key and value"),
    "vit_base_patch16_dinov3_qkvb": ({}, "biases of query and value.*without _qkvb"),
    "vit_small_plus_patch16_dinov3": ({}, "EvaAttention with SwiGLU"),
    "vit_base_patch16_224": ({"embed_dims": 3}, "embed_dims"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_refused_by_name(name):
    args, reason = REFUSED[name]
    with pytest.raises(UserError, match=f"backbone {name}:.*({reason})"), torch.device("meta"):
        transformer_of(BackboneConfig(timm=name, args=args, pretrained=False))
