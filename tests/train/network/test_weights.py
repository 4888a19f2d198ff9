import json

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorat.configs.load import load_variant
from lorat.configs.schema import VariantConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.reading import read_weights
from lorat.train.network.trained import export_merged, load_network, load_weights, save_weights
from lorat.train.network.variants import assemble, build_network
from lorat.train.network.weights.published import published_tensors
from tests.train.network.conftest import crops

FUTURE = {"variant": '{"name": "x", "warp": 9}'}
"""Metadata that this version cannot read."""


@pytest.fixture
def backbone(make_variant, tmp_path):
    config = make_variant().backbone
    torch.manual_seed(4)
    model = timm.create_model(config.timm, num_classes=0, **(config.args | {"init_values": 0.5}))
    path = tmp_path / "backbone.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def saved(make_variant, backbone, tmp_path):
    """A LoRA network, its variant and its file."""
    variant = make_variant()
    network = build_network(variant, backbone=backbone)
    path = tmp_path / "run" / "model.safetensors"
    save_weights(path, network, variant, {"epoch": "10"})
    return network, variant, path


def same_output(first, second, batch, atol):
    with torch.no_grad():
        a, b = first(*batch), second(*batch)
    torch.testing.assert_close(a.score_map, b.score_map, rtol=0, atol=atol)
    torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=atol)


def test_file_holds_the_published_tensors_and_says_what_it_is(saved):
    network, variant, path = saved
    names = {"token_type_embed"}
    for i in range(3):
        for layer in ("attn.qkv.q", "attn.qkv.k", "attn.qkv.v", "attn.proj", "mlp.fc1", "mlp.fc2"):
            names |= {f"blocks.{i}.{layer}.lora.{factor}" for factor in "AB"}
    for mlp in ("cls_mlp", "reg_mlp"):
        names |= {f"head.{mlp}.layers.{i}.{part}" for i in range(3) for part in ("weight", "bias")}
    tensors = load_file(path)
    assert tensors.keys() == names
    assert tensors["blocks.1.attn.qkv.k.lora.A"].shape == (8, 64)
    assert tensors["blocks.1.mlp.fc1.lora.B"].shape == (256, 8)
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert VariantConfig(**json.loads(metadata["variant"])) == variant
    assert metadata["backbone"] == variant.backbone.timm
    assert metadata["backbone_fingerprint"] == network.fingerprint != ""
    assert (metadata["lora_rank"], metadata["lora_alpha"]) == ("8", "16.0")
    assert metadata["epoch"] == "10"
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_loaded_network_tracks_as_the_trained_one(saved, backbone):
    network, variant, path = saved
    loaded, told = load_network(path, backbone=backbone)
    assert told == variant
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    same_output(network.eval(), loaded, crops(), 1e-5)


def test_bfloat16_network_has_matrices_in_bfloat16_and_the_rest_in_float32(saved, backbone):
    network, _, path = saved
    loaded, _ = load_network(path, backbone=backbone, dtype=torch.bfloat16)
    assert loaded.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert loaded.head.cls_mlp.layers[0].weight.dtype == torch.bfloat16
    assert loaded.norm.weight.dtype == loaded.pos_embed.dtype == torch.float32
    same_output(network.eval(), loaded, crops(), 0.05)


def test_weights_go_back_into_a_network_to_train(saved, backbone):
    network, variant, path = saved
    fresh = build_network(variant, backbone=backbone)
    assert not torch.equal(fresh.blocks[0].attn.qkv.lora_a, network.blocks[0].attn.qkv.lora_a)
    assert load_weights(path, fresh)["epoch"] == "10"
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, fresh.get_parameter(name)), name


def test_files_of_224_serve_378(saved, backbone, make_variant):
    _, _, path = saved
    loaded, variant = load_network(path, backbone=backbone, variant=make_variant(378))
    assert (loaded.search_grid, variant.name) == (27, "tiny-378")
    template, search = (torch.randn(1, 3, side, side) for side in (196, 378))
    assert loaded(template, search, torch.ones(1, 14, 14)).score_map.shape == (1, 27, 27)


@pytest.mark.parametrize(
    ("scalars", "metadata", "told"),
    [
        ({"lora_alpha": 16, "use_rslora": False}, {}, {"alpha": 1.0, "rslora": True}),
        ({}, {}, {"alpha": 16.0}),
        ({}, FUTURE | {"lora_alpha": "16.0", "lora_rslora": "false"}, {"alpha": 1.0}),
    ],
    ids=["scalars", "nothing", "metadata of another version"],
)
def test_scale_is_the_files_or_else_the_named_variants(
    saved, backbone, make_variant, scalars, metadata, told, tmp_path
):
    scalars = {name: torch.tensor(value) for name, value in scalars.items()}
    save_file(load_file(saved[2]) | scalars, tmp_path / "model.bin", metadata)
    loaded, variant = load_network(tmp_path / "model.bin", backbone=backbone, variant=make_variant(**told))
    assert (variant.lora.alpha, variant.lora.rslora) == (16.0, False)
    same_output(saved[0].eval(), loaded, crops(), 1e-5)


@pytest.mark.parametrize("metadata", [{}, FUTURE])
def test_file_that_does_not_name_its_variant_asks_for_it(saved, backbone, metadata, tmp_path):
    save_file(load_file(saved[2]), tmp_path / "odd.bin", metadata)
    with pytest.raises(UserError, match=r"odd\.bin.*--variant"):
        load_network(tmp_path / "odd.bin", backbone=backbone)


def test_another_backbone_file_is_refused_by_its_fingerprint_or_taken_by_force(saved, backbone, said):
    network, variant, path = saved
    state = load_file(backbone)
    state["norm.bias"] += 1e-3
    other = backbone.with_name("other.safetensors")
    save_file(state, other)
    fresh = build_network(variant, backbone=other)
    with pytest.raises(UserError, match=network.fingerprint):
        load_network(path, backbone=other)
    with pytest.raises(UserError, match=network.fingerprint):
        load_weights(path, fresh)
    loaded, _ = load_network(path, backbone=other, force_backbone=True)
    assert loaded.fingerprint != network.fingerprint
    assert network.fingerprint in said.text
    assert loaded.fingerprint in said.text
    said.clear()
    load_weights(path, fresh, force_backbone=True)
    assert network.fingerprint in said.text
    assert torch.equal(fresh.token_type_embed, network.token_type_embed)
    assert torch.equal(fresh.norm.bias, state["norm.bias"])


def test_another_backbone_by_name_is_taken_when_forced(saved, backbone, said):
    _, variant, path = saved
    config = variant.backbone.model_copy(update={"timm": "vit_small_patch14_dinov2"})
    renamed = variant.model_copy(update={"backbone": config, "name": "other"})
    with pytest.raises(UserError, match="tiny-224"):
        load_network(path, backbone=backbone, variant=renamed)
    _, told = load_network(path, backbone=backbone, variant=renamed, force_backbone=True)
    assert told.backbone == config
    assert "onto the backbone of other" in said.text


def test_backbone_beside_a_whole_file_is_said_to_be_idle(tmp_path, backbone, said):
    variant = load_variant("toy")
    save_weights(tmp_path / "toy.safetensors", build_network(variant), variant)
    load_network(tmp_path / "toy.safetensors", backbone=backbone)
    assert "is not read" in said.text


@pytest.mark.parametrize("targets", [("q", "v"), ("mlp",), ("k", "proj")])
def test_pairs_on_some_layers_only_are_saved_and_loaded(targets, make_variant, backbone, tmp_path):
    variant = make_variant(targets=targets)
    network = build_network(variant, backbone=backbone)
    path = tmp_path / "some.safetensors"
    save_weights(path, network, variant)
    layers = {name.split(".", 2)[2] for name in load_file(path) if name.endswith(".lora.A")}
    wanted = {f"attn.qkv.{part}" for part in "qkv" if part in targets}
    wanted |= {"attn.proj"} if "proj" in targets else set()
    wanted |= {"mlp.fc1", "mlp.fc2"} if "mlp" in targets else set()
    assert layers == {f"{layer}.lora.A" for layer in wanted}
    same_output(network.eval(), load_network(path, backbone=backbone)[0], crops(), 1e-5)
    again = build_network(variant, backbone=backbone)
    load_weights(path, again)
    same_output(network, again.eval(), crops(), 0.0)
    with pytest.raises(UserError, match=r"missing: blocks\.0"):
        save_file(load_file(path), tmp_path / "nameless.bin")
        load_network(tmp_path / "nameless.bin", variant=make_variant())


def test_weights_of_another_variant_are_refused_with_what_differs(saved, backbone):
    _, variant, path = saved
    with pytest.raises(UserError, match=r"tiny-224.*not of B-224.*other backbone\.timm, back.*\.args"):
        load_network(path, backbone=backbone, variant=load_variant("B-224"))
    timms = variant.backbone.model_copy(update={"layout": "timm"})
    for changes, told in (({"backbone": timms}, r"other backbone\.layout;"), ({"lora": None}, "other lora;")):
        with pytest.raises(UserError, match=told):
            load_network(path, backbone=backbone, variant=variant.model_copy(update=changes))


def test_pairs_are_not_trained_on_from_a_merged_file(saved, backbone, tmp_path):
    network, variant, path = saved
    merged = tmp_path / "merged.safetensors"
    export_merged(read_weights(path), merged, torch.float32, backbone=backbone)
    for force in (False, True):
        with pytest.raises(UserError, match=r"without LoRA pairs.*lora: null"):
            load_weights(merged, build_network(variant, backbone=backbone), force_backbone=force)
    whole = build_network(variant.model_copy(update={"lora": None}), backbone=backbone)
    load_weights(merged, whole)
    same_output(network.eval(), whole.eval(), crops(), 1e-5)


def test_tensors_that_do_not_fit_are_listed_by_name(saved, tmp_path):
    network, _, path = saved
    tensors = load_file(path)
    del tensors["blocks.0.attn.qkv.q.lora.A"]
    tensors["blocks.0.attn.qkv.q.lora.C"] = torch.zeros(1)
    tensors["token_type_embed"] = torch.zeros(2, 64)
    save_file(tensors, tmp_path / "odd.safetensors")
    before = network.token_type_embed.clone()
    with pytest.raises(UserError) as error:
        load_weights(tmp_path / "odd.safetensors", network)
    assert "missing: blocks.0.attn.qkv.q.lora.A" in error.value.message
    assert "unexpected: blocks.0.attn.qkv.q.lora.C" in error.value.message
    assert "token_type_embed (2, 64) instead of (3, 64)" in error.value.message
    assert torch.equal(network.token_type_embed, before)


@pytest.mark.parametrize("lora", [False, True])
def test_network_on_a_backbone_never_pretrained_is_saved_whole(lora, make_variant, tmp_path):
    variant = make_variant()
    invented = variant.backbone.model_copy(update={"pretrained": False})
    kept = {} if lora else {"lora": None}
    variant = variant.model_copy(update={"backbone": invented} | kept)
    network = build_network(variant)
    path = tmp_path / "whole.safetensors"
    save_weights(path, network, variant)
    assert ("blocks.0.attn.qkv.weight" in load_file(path)) == (not lora)
    loaded, told = load_network(path)
    assert told == variant
    same_output(network.eval(), loaded, crops(), 1e-5 if lora else 0.0)
    again = build_network(variant)
    load_weights(path, again)
    same_output(network.eval(), again.eval(), crops(), 0.0)


def test_whole_file_is_refused_for_another_search_size(tmp_path):
    variant = load_variant("toy")
    path = tmp_path / "toy.safetensors"
    save_weights(path, build_network(variant), variant)
    larger = variant.model_copy(update={"search_size": 192})
    with pytest.raises(UserError, match="144 search cells"):
        load_network(path, variant=larger)


def test_gated_pairs_have_official_names(make_variant):
    names = published_tensors(assemble(make_variant(gated=True), None))[0]
    assert names["blocks.0.mlp.w12.lora.B"].shape == (352, 8)
    assert names["blocks.2.mlp.w3.lora.A"].shape == (8, 176)


@pytest.mark.parametrize("plan", [None, '{"width": 64, "warp": 9}'])
def test_files_of_other_versions_are_built_as_timm_says(plan, saved, backbone):
    network, _, path = saved
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "plan"}
    save_file(tensors, path, metadata | ({} if plan is None else {"plan": plan}))
    assert read_weights(path).plan == network.plan
    same_output(network.eval(), load_network(path, backbone=backbone)[0], crops(), 1e-5)


def test_a_plan_is_not_taken_for_another_backbone(saved):
    network, variant, path = saved
    args = variant.backbone.args | {"num_heads": 2}
    other = variant.model_copy(update={"backbone": variant.backbone.model_copy(update={"args": args})})
    assert read_weights(path).plan.heads == network.plan.heads != 2
    assert read_weights(path, other, force_backbone=True).plan.heads == 2
