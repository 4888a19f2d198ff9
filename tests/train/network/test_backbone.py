from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from lorat.shards.errors import UserError
from lorat.train.network.backbone import backbone_weights, load_backbone
from lorat.train.network.variants import build_network


@pytest.fixture(params=[False, True], ids=["mlp", "gated"])
def forms(request, make_variant, tmp_path):
    """The same backbone as timm's file and as an official one, and a variant on it."""
    variant = make_variant(gated=request.param)
    config = variant.backbone
    torch.manual_seed(0)
    state = timm.create_model(config.timm, num_classes=0, **config.args).state_dict()
    official = {"mask_token": torch.zeros(1, 64)}
    for name, tensor in state.items():
        if request.param:
            name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        official[name] = tensor
    files = tmp_path / "timm.safetensors", tmp_path / "official.pth"
    save_file(state, files[0])
    torch.save(official, files[1])
    return variant, *files


def test_official_and_timm_files_are_the_same_backbone(forms):
    variant, timms, official = forms
    networks = [build_network(variant, backbone=file) for file in (timms, official)]
    assert networks[0].fingerprint == networks[1].fingerprint != ""
    for name, parameter in networks[0].named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, networks[1].get_parameter(name)), name


def test_fingerprint_tells_one_changed_value(forms):
    config, timms = forms[0].backbone, forms[1]
    weights = load_backbone(config, timms)
    before = weights.fingerprint()
    weights.tensors["blocks.1.norm1.bias"][3] += 1e-6
    assert weights.fingerprint() != before


def test_fingerprint_ignores_what_the_tracker_leaves_out():
    state = {"cls_token": torch.zeros(1, 1, 4), "pos_embed": torch.arange(20.0).view(1, 5, 4)}
    changed = {"cls_token": torch.ones(1, 1, 4), "pos_embed": state["pos_embed"].clone()}
    changed["pos_embed"][0, 0] = 7.0  # the class token's position
    prints = [backbone_weights("file", s).fingerprint() for s in (state, changed)]
    assert prints[0] == prints[1]


@pytest.mark.parametrize("index", [1, 2])
def test_folder_of_backbones_is_searched_by_timm_name(forms, index, tmp_path, monkeypatch):
    variant, file = forms[0], forms[index]
    folder = tmp_path / "backbones"
    folder.mkdir()
    file.rename(folder / f"{variant.backbone.timm}{file.suffix}")
    monkeypatch.setenv("LORAT_BACKBONES", str(folder))
    assert build_network(variant).fingerprint


def test_unreachable_hub_says_what_to_fetch_and_where_to_put_it(make_variant, monkeypatch):
    def offline(*_args, **_options):
        raise OSError("no route to host")

    monkeypatch.delenv("LORAT_BACKBONES", raising=False)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError) as error:
        load_backbone(make_variant().backbone)
    for part in (
        "https://huggingface.co/timm/vit_small_patch14_dinov2.lvd142m/resolve/main/",
        "--backbone",
        "$LORAT_BACKBONES",
        "vit_small_patch14_dinov2.lvd142m.safetensors",
    ):
        assert part in error.value.message


def test_tensors_that_do_not_fit_are_listed_by_name(forms, tmp_path):
    variant, _, official = forms
    state = torch.load(official, weights_only=True)
    del state["norm.bias"]
    state["norm.weight"] = torch.ones(65)
    state["decoder.weight"] = torch.ones(1)
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(UserError) as error:
        build_network(variant, backbone=tmp_path / "broken.pth")
    message = error.value.message
    assert "broken.pth" in message
    assert "missing: norm.bias" in message
    assert "unexpected: decoder.weight" in message
    assert "misshapen: norm.weight (65,) instead of (64,)" in message


def test_nothing_is_unpickled(forms, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("unpickled",))

    path = tmp_path / "evil.pth"
    torch.save({"norm.weight": Evil()}, path)
    with pytest.raises(UserError, match=r"evil\.pth"):
        build_network(forms[0], backbone=path)


@pytest.mark.parametrize(
    "content", [b"", b"hello, world, this is no file of tensors", b"\x40" + b"\0" * 7 + b"{"]
)
def test_damaged_files_are_named(make_variant, tmp_path, content):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.safetensors"):
        build_network(make_variant(), backbone=path)


def test_missing_file_is_named(make_variant, tmp_path):
    with pytest.raises(UserError, match=r"absent\.pth: no such"):
        build_network(make_variant(), backbone=tmp_path / "absent.pth")
