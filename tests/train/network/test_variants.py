"""Shipped variants have the published sizes; own ones are built or refused with a reason."""

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from lorat.configs.load import load_variant, names
from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.layers import Dense
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.variants import assemble, build_network, hold_matrices_in

# Parameters in training form and how many of them are trained.
SIZES = {
    "S-224": (27_530_885, 5_902_853),
    "S-378": (27_712_517, 5_902_853),
    "B-224": (98_708_741, 12_985_349),
    "B-378": (99_072_005, 12_985_349),
    "L-224": (335_744_005, 32_518_149),
    "L-378": (336_228_357, 32_518_149),
    "g-224": (1_215_001_093, 80_234_501),
    "g-378": (1_215_727_621, 80_234_501),
    "timm-dinov2-S-224": (27_958_277, 5_902_853),
    "timm-dinov2-S-378": (27_958_277, 5_902_853),
    "timm-dinov2-B-224": (99_563_525, 12_985_349),
    "timm-dinov2-B-378": (99_563_525, 12_985_349),
    "timm-dinov2-L-224": (336_883_717, 32_518_149),
    "timm-dinov2-L-378": (336_883_717, 32_518_149),
    "timm-dinov2-g-224": (1_216_710_661, 80_234_501),
    "timm-dinov2-g-378": (1_216_710_661, 80_234_501),
    "clip-B-256": (98_829_317, 12_986_885),
    "clip-L-224": (335_695_877, 32_520_197),
    "clip-L-336": (336_023_557, 32_520_197),
    "clip-H-224": (684_518_405, 53_757_445),
    "clip-H-378": (685_123_845, 53_757_445),
    "mae-B-256": (98_828_549, 12_985_349),
    "mae-B-384": (99_074_309, 12_985_349),
    "mae-B-432": (99_191_813, 12_985_349),
    "mae-L-256": (335_879_173, 32_518_149),
    "mae-L-384": (336_206_853, 32_518_149),
    "mae-H-224": (684_517_125, 53_754_885),
    "eva02-B-224": (99_330_821, 13_575_173),
    "eva02-L-224": (337_352_645, 34_087_941),
    "S-168": (23_506_565, 1_921_541),  # ours: LoRA of rank 16, fewer positions than S-224
    # without published counterpart: timm's parameters less five tokens, and what is trained
    "dinov3-S-256": (27_487_877, 5_902_853),
    "dinov3-S-384": (27_487_877, 5_902_853),
    "dinov3-B-256": (98_622_725, 12_985_349),
    "dinov3-B-384": (98_622_725, 12_985_349),
    "dinov3-L-256": (335_592_453, 32_518_149),
    "dinov3-L-384": (335_592_453, 32_518_149),
}
FAMILY = {
    "spmtrack-B-378": (115_330_565, 29_243_909),
    "spmtrack-L-378": (379_582_469, 75_872_261),
    "spmtrack-g-378": (1_339_511_813, 204_018_693),
    # ours, without published counterpart: fewer positions
    "spmtrack-B-224": (114_967_301, 29_243_909),
    "spmtrack-L-224": (379_098_117, 75_872_261),
    "spmtrack-g-224": (1_338_785_285, 204_018_693),
    # published: 131.4, 440.8, 272.0 and 945.5 million, each stream with weights of its own (see the test of them)
    "loratv2-p1-B-224": (110_183_429, 23_602_181),
    "loratv2-p1-L-224": (365_199_365, 60_829_701),
    "loratv2-p2-B-378": (120_801_029, 12_983_813),
    "loratv2-p2-L-378": (393_511_941, 32_516_101),
}
SIZES |= FAMILY
METHODS = {"spmtrack": ("spmtrack", 3, 2), "loratv2": ("loratv2", 1, 1)}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 4}


def small(name, args=SMALL, **changes) -> VariantConfig:
    """A shipped variant on a small backbone of its family."""
    variant = load_variant(name)
    backbone = variant.backbone.model_copy(update={"args": args})
    lora = LoraConfig(rank=4, alpha=4.0)
    return variant.model_copy(update={"backbone": backbone, "lora": lora} | changes)


def crops(variant, patch):
    torch.manual_seed(2)
    template, search = variant.template_size, variant.search_size
    mask = torch.zeros(1, template // patch, template // patch, dtype=torch.bool)
    mask[:, 2:5, 3:6] = True
    return torch.randn(1, 3, template, template), torch.randn(1, 3, search, search), mask


def test_the_table_has_every_shipped_variant_but_the_toys():
    assert SIZES.keys() | {"toy", "demo", "spmtrack-toy", "loratv2-toy"} == set(names("variants"))


@pytest.mark.parametrize("name", SIZES)
def test_shipped_variants_have_their_number_of_parameters(name):
    variant = load_variant(name)
    with torch.device("meta"):
        network = assemble(variant, None)
    counts = [sum(p.numel() for p in network.parameters())]
    counts.append(sum(p.numel() for p in network.parameters() if p.requires_grad))
    assert tuple(counts) == SIZES[name]
    assert variant.template_factor == 2.0
    narrow = name == "S-168"  # S-224's scale in three quarters of its window
    assert variant.search_factor == (3.0 if narrow else 4.0 if variant.search_size <= 256 else 5.0)
    assert (variant.method, variant.templates, variant.searches) == METHODS.get(name.split("-")[0], ("lorat", 1, 1))
    rates = [block.drop_path for block in network.blocks]
    assert rates[-1] == variant.drop_path
    assert rates[0] == (variant.drop_path if variant.backbone.layout == "official" else 0.0)


@pytest.mark.parametrize("name", SIZES)
def test_backbones_are_pinned_by_tag_and_bring_their_own_statistics(name):
    variant = load_variant(name)
    config = timm.models.get_pretrained_cfg(variant.backbone.timm, allow_unregistered=False)
    assert variant.backbone.timm.endswith(f".{config.tag}")
    assert (variant.mean, variant.std) == (config.mean, config.std)
    assert (variant.mean == CLIP_MEAN) == name.startswith(("clip", "eva02"))


@pytest.mark.parametrize(("name", "native"), [("timm-dinov2-S-224", 37), ("clip-B-256", 14), ("mae-B-432", 14)])
def test_timm_variants_compute_what_the_published_system_does(name, native):
    """Tokens by the published rules, through timm's own modules."""
    layer_scale = {"init_values": 0.5} if "dinov2" in name else {}
    variant = small(name, SMALL | layer_scale, lora=None)
    torch.manual_seed(0)
    model = timm.create_model(variant.backbone.timm, num_classes=0, **variant.backbone.args).eval()
    torch.manual_seed(0)
    network = assemble(variant, None).eval()
    template, search, mask = crops(variant, network.patch_embed.proj.kernel_size[0])
    sides = mask.shape[1], network.search_grid
    positions = model.pos_embed[:, 1:]
    if native < sides[1]:
        positions = resample_abs_pos_embed(positions, [sides[1]] * 2, [native] * 2, 0)
    grid = positions.view(1, *[max(native, sides[1])] * 2, -1)
    types = network.token_type_embed
    with torch.no_grad():
        z, x = (
            model.norm_pre(
                model.patch_embed.proj(image).flatten(2).transpose(1, 2) + grid[:, :side, :side].flatten(1, 2)
            )
            for image, side in zip((template, search), sides, strict=True)
        )
        tokens = torch.cat((z + types[mask.flatten(1).long()], x + types[2]), dim=1)
        tokens = model.norm(model.blocks(tokens))[:, sides[0] ** 2 :]
        expected = network.head(tokens)
        got = network(template, search, mask)
    torch.testing.assert_close(got.score_map, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(got.boxes, expected[1], rtol=0, atol=1e-5)


def test_the_norm_before_the_blocks_is_trained_with_lora():
    network = assemble(small("clip-B-256"), None)
    trained = {
        name.partition(".lora_")[0]
        for name, p in network.named_parameters()
        if p.requires_grad and not name.startswith(("blocks.", "head."))
    }
    assert trained == {"norm_pre.weight", "norm_pre.bias", "token_type_embed"}
    hold_matrices_in(network, torch.bfloat16)
    assert network.norm_pre.weight.dtype == torch.float32
    assert network.patch_embed.proj.weight.dtype == torch.bfloat16
    assert network.patch_embed.proj.bias is None


def test_own_yaml_by_its_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "backbone:\n"
        "  timm: vit_base_patch16_clip_quickgelu_224.openai\n"
        "  layout: timm\n"
        "  pretrained: false\n"
        "  args: {embed_dim: 48, depth: 2, num_heads: 3, mlp_ratio: 2, patch_size: 8}\n"
        "lora: {rank: 3, alpha: 6, targets: [q, v]}\n"
        "template_size: 40\n"
        "search_size: 80\n"
    )
    variant = load_variant(str(path))
    network = build_network(variant).eval()
    merge_adapters(network)
    assert (variant.name, len(network.blocks)) == ("mine", 2)
    assert network.blocks[0].mlp.fc1.weight.shape == (96, 48)
    assert isinstance(network.blocks[0].attn.qkv, Dense)
    assert network(*crops(variant, 8)).boxes.shape == (1, 10, 10, 4)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"search_size": 225}, r"clip-B-256: search_size 225.*patch size 16 of.*take 224 or 240"),
        ({"template_size": 100}, "template_size 100"),
        ({"template_size": 272}, "template_size 272 must not exceed search_size 256"),
        ({"template_size": 8}, "template_size 8"),
        (("mae-B-256", 50), "backbone vit_base_patch16_224.mae: timm cannot build it"),
        (("eva02-B-224", 40), "backbone eva02_base_patch14_224.mim_in22k: timm cannot build it"),
    ],
)
def test_sizes_and_widths_that_do_not_fit_are_refused(variant, message):
    if isinstance(variant, dict):
        variant = load_variant("clip-B-256").model_copy(update=variant)
    else:
        variant = small(variant[0], {"embed_dim": variant[1], "num_heads": 4})
    with pytest.raises(UserError, match=message), torch.device("meta"):
        assemble(variant, None)


def test_layout_must_be_one_of_the_two(tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text("backbone: {timm: x, layout: tim}\ntemplate_size: 8\nsearch_size: 8\n")
    with pytest.raises(UserError, match=r"odd\.yaml.*backbone\.layout.*'official' or 'timm'"):
        load_variant(str(path))
    assert BackboneConfig(timm="x").layout == "official"
