"""DINOv3 under the tracker: rotary positions of both crops, its own tokens kept or not, LoRA on every layer."""

import pytest
import timm
import torch
from safetensors.torch import load_file

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.lora import LoraLinear, merge_adapters
from lorat.train.network.reading import read_weights
from lorat.train.network.trained import export_merged, load_network, save_weights
from lorat.train.network.variants import assemble, build_network
from lorat.train.network.weights.backbones import backbone_weights
from lorat.train.step.optimizer import parameter_groups
from tests.train.network.conftest import assert_gradients_reach_what_is_trained
from tests.train.network.published_files import write

NAME = "vit_small_patch16_dinov3.lvd1689m"
ARGS = {"embed_dim": 32, "depth": 3, "num_heads": 4}
KEPT = {"none": 0, "registers": 4, "all": 5}
kept = pytest.mark.parametrize("prefix", KEPT)


def variant(prefix="none", pretrained=True) -> VariantConfig:
    config = BackboneConfig(timm=NAME, args=ARGS, layout="timm", prefix_tokens=prefix, pretrained=pretrained)
    return VariantConfig(
        name="dinov3", backbone=config, lora=LoraConfig(rank=4, alpha=4.0), template_size=64, search_size=128
    )


@pytest.fixture
def model():
    """timm's model with loud invented values."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=0, **ARGS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def built(model, prefix, **changes):
    torch.manual_seed(1)
    changed = variant(prefix).model_copy(update=changes)
    return assemble(changed, backbone_weights("timm", model.state_dict(), prefix)).eval()


def crops():
    torch.manual_seed(2)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 1:3, 1:3] = True
    return torch.randn(2, 3, 64, 64), torch.randn(2, 3, 128, 128), mask


def test_one_image_passes_as_through_timms_model(model):
    network = built(model, "all", lora=None)
    image = torch.randn(2, 3, 128, 128)
    tokens = torch.cat((network.prefix_tokens.expand(2, -1, -1), network.patch_embed(image)), dim=1)
    rows = [*range(5), *range(-64, 0)]  # prefix tokens and the search crop's places
    with torch.no_grad():
        for block in network.blocks:
            tokens = block(tokens, 0, network.rotation[:, rows])
        torch.testing.assert_close(network.norm(tokens), model.forward_features(image), rtol=1e-5, atol=1e-5)


@kept
def test_both_crops_reach_over_all_places_and_kept_tokens_have_none(prefix, model):
    """Tokens through timm's own blocks, each crop with the places that timm gives an image."""
    plain = built(model, prefix, lora=None)
    template, search, mask = crops()
    types = plain.token_type_embed
    own = torch.cat((model.cls_token, model.reg_token), dim=1)[:, 5 - KEPT[prefix] :]
    with torch.no_grad():
        z, x = (model.patch_embed(image).flatten(1, 2) for image in (template, search))
        tokens = torch.cat((own.expand(2, -1, -1), z + types[mask.flatten(1).long()], x + types[2]), dim=1)
        rope = torch.cat([model.rope.get_embed((side, side)) for side in (4, 8)])
        for block in model.blocks:
            block.attn.num_prefix_tokens = KEPT[prefix]
            tokens = block(tokens, rope=rope)
        expected = plain.head(model.norm(tokens)[:, -64:])
        got = plain(*crops())
    torch.testing.assert_close(got.score_map, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(got.boxes, expected[1], rtol=0, atol=1e-5)
    assert plain.embed_template(template, mask).shape == (2, plain.template_length, 32)
    assert plain.template_length == 16 + KEPT[prefix]


@kept
def test_every_linear_layer_has_pairs_and_training_computes_what_is_merged(prefix, model):
    network = built(model, prefix)
    layers = {name: m for name, m in network.blocks[1].named_modules() if isinstance(m, LoraLinear)}
    assert layers.keys() == {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert layers["attn.qkv"].parts == ("q", "k", "v")
    assert layers["attn.qkv"].bias is None
    with torch.no_grad():
        before = network(*crops())
        merge_adapters(network)
        after = network(*crops())
    torch.testing.assert_close(after.score_map, before.score_map, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.boxes, before.boxes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_every_pair_and_frozen_parts_get_none(dtype, model):
    network = built(model, "all").train()
    assert_gradients_reach_what_is_trained(network, crops(), dtype)
    assert not network.prefix_tokens.requires_grad
    assert network.blocks[0].ls1.gamma.dtype == network.prefix_tokens.dtype == torch.float32


def test_kept_tokens_are_trained_without_decay_where_all_is():
    config = variant("registers", pretrained=False).model_copy(update={"lora": None})
    network = build_network(config)
    groups = parameter_groups(network, weight_decay=0.1)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(network.prefix_tokens)] == 0.0
    assert decays[id(network.blocks[0].attn.qkv.weight)] == 0.1


@kept
def test_files_go_out_and_come_back(prefix, model, tmp_path):
    backbone = write(tmp_path / "timm.safetensors", model.state_dict())
    network = build_network(variant(prefix), backbone=backbone)
    save_weights(tmp_path / "run.safetensors", network, variant(prefix))
    assert "blocks.2.attn.q.lora.A" in load_file(tmp_path / "run.safetensors")
    export_merged(read_weights(tmp_path / "run.safetensors"), tmp_path / "all.pth", torch.float32, backbone=backbone)
    beside, _ = load_network(tmp_path / "run.safetensors", backbone=backbone)
    alone, _ = load_network(tmp_path / "all.pth", variant=variant(prefix))
    with torch.no_grad():
        outputs = [one(*crops()).score_map for one in (network.eval(), beside, alone)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(outputs[1], outputs[2])


def test_a_backbone_without_registers_cannot_keep_any():
    config = BackboneConfig(timm="vit_small_patch14_dinov2.lvd142m", prefix_tokens="registers")
    plain = variant().model_copy(update={"backbone": config})
    with pytest.raises(UserError, match=r"has no register tokens; set backbone\.prefix_tokens to none"):
        build_network(plain.model_copy(update={"backbone": config.model_copy(update={"pretrained": False})}))


def test_sines_cannot_stand_in_for_positions_that_are_not_there():
    config = variant(pretrained=False).backbone.model_copy(update={"initial_positions": "sincos"})
    with pytest.raises(UserError, match="initial_positions to timm"):
        build_network(variant().model_copy(update={"backbone": config}))
