import hashlib
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from lorat.configs.schema import BackboneConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.variants import build_network
from lorat.train.network.weights import backbones
from lorat.train.network.weights.backbones import backbone_weights, how_to_get, load_backbone
from tests.train.network.published_files import FAMILIES, make, write

EVA = {
    "attn.q_proj.bias": "attn.q_bias",
    "attn.v_proj.bias": "attn.v_bias",
    "mlp.fc1_g": "mlp.w1",
    "mlp.fc1_x": "mlp.w2",
    "mlp.fc2": "mlp.w3",
    "mlp.norm": "mlp.ffn_ln",
}
"""timm's names → those of the files that EVA-02's authors released."""


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


@pytest.mark.parametrize("named", ["timm.safetensors", "timm.pth", "its authors"])
def test_folder_of_backbones_is_searched_by_every_name(named, forms, tmp_path, monkeypatch):
    variant, timms, official = forms
    name = variant.backbone.timm
    by_authors = f"dinov2_vit{'s' if 'small' in name else 'g'}14_pretrain.pth"
    file = timms if named.endswith(".safetensors") else official
    folder = tmp_path / "backbones"
    folder.mkdir()
    file.rename(folder / (by_authors if named == "its authors" else f"{name}{file.suffix}"))
    monkeypatch.setenv("LORAT_BACKBONES", str(folder))
    assert build_network(variant).fingerprint


def test_folder_that_is_not_there_is_named(make_variant, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAT_BACKBONES", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"LORAT_BACKBONES=.*nowhere"):
        build_network(make_variant())


class Hub(NamedTuple):
    """What the hub has, and what it was asked for."""

    files: dict[str, bytes]  # by path
    asked: list[str]


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        hub = self.server.hub
        hub.asked.append(self.path)
        data = hub.files.get(self.path)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        if data is not None:
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data or b"")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A server that the real client takes for the hub, with no file yet, and an empty cache; no folder of backbones."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        server.hub = Hub({}, [])
        monkeypatch.delenv("LORAT_BACKBONES", raising=False)
        address = f"http://127.0.0.1:{server.server_port}"
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server.hub
        server.shutdown()


def test_hub_is_asked_once_for_timms_safetensors_by_name(forms, hub):
    variant, timms, _ = forms
    place = f"/timm/{variant.backbone.timm}/resolve/main/model.safetensors"
    hub.files[place] = timms.read_bytes()
    assert build_network(variant).fingerprint == build_network(variant, backbone=timms).fingerprint
    assert place in hub.asked
    hub.asked.clear()
    assert build_network(variant).fingerprint and hub.asked == []


@pytest.mark.parametrize("why", ["offline", "nothing there"])
def test_a_hub_that_does_not_give_says_what_to_fetch_and_where_to_put_it(why, make_variant, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", why == "offline")
    with pytest.raises(UserError) as error:
        load_backbone(make_variant().backbone)
    assert (hub.asked == []) == (why == "offline")
    assert "\n" not in error.value.message
    for part in (
        "https://huggingface.co/timm/vit_small_patch14_dinov2.lvd142m/resolve/main/",
        "dinov2_vits14_pretrain.pth",
        "--backbone",
        "LORAT_BACKBONES",
        "vit_small_patch14_dinov2.lvd142m.safetensors",
    ):
        assert part in error.value.message


@pytest.mark.parametrize("answers", [False, True], ids=["refused", "silent"])
def test_without_a_network_the_hub_is_not_waited_for(answers, make_variant, hub, monkeypatch):
    monkeypatch.setattr(backbones, "_HUB_ANSWER", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if not answers:
            server.close()
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        begin = time.monotonic()
        with pytest.raises(UserError, match=r"the hub does not give them \((\w*Connect\w*|\w*Timeout\w*)\)"):
            load_backbone(make_variant().backbone)
    assert time.monotonic() - begin < 4


def test_clip_is_fetched_from_where_timm_keeps_it(tmp_path, monkeypatch):
    # the quickgelu models share their files with the others
    config = BackboneConfig(timm="vit_large_patch14_clip_quickgelu_336.openai")
    assert "timm/vit_large_patch14_clip_336.openai/resolve" in how_to_get(config)
    monkeypatch.setenv("LORAT_BACKBONES", str(tmp_path))
    file = tmp_path / "vit_large_patch14_clip_336.openai.safetensors"
    save_file({"patch_embed.proj.weight": torch.ones(3)}, file)
    assert load_backbone(config).source == str(file)


@pytest.mark.parametrize("timm_name", ["vit_base_patch14_dinov2.nosuch", "vit_nosuch"])
def test_names_that_timm_does_not_know_are_a_users_error(timm_name, monkeypatch):
    monkeypatch.delenv("LORAT_BACKBONES", raising=False)
    with pytest.raises(UserError, match=timm_name):
        load_backbone(BackboneConfig(timm=timm_name))


@pytest.mark.parametrize("name", ["register_tokens", "reg_token"])
def test_backbone_with_registers_is_refused_where_the_variant_has_none(name, forms, tmp_path):
    variant, timms, _ = forms
    path = tmp_path / "reg4.safetensors"
    save_file(load_file(timms) | {name: torch.zeros(1, 4, 64)}, path)
    with pytest.raises(UserError, match=r"reg4\.safetensors.*4 register tokens, but vit_.* has 0.*; fetch"):
        build_network(variant, backbone=path)


def test_backbone_with_registers_serves_a_variant_that_names_it(make_variant, tmp_path):
    variant = make_variant()
    config = variant.backbone.model_copy(update={"timm": "vit_small_patch14_reg4_dinov2.lvd142m"})
    model = timm.create_model(config.timm, num_classes=0, **config.args)
    save_file(model.state_dict(), tmp_path / "reg4.safetensors")
    variant = variant.model_copy(update={"backbone": config})
    network = build_network(variant, backbone=tmp_path / "reg4.safetensors")
    assert network.pos_embed.shape == (1, 256, 64)
    save_file({n: t for n, t in model.state_dict().items() if n != "reg_token"}, tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"none\.safetensors.*0 register tokens, but vit_small_.*reg4.* has 4"):
        build_network(variant, backbone=tmp_path / "none.safetensors")


def test_official_and_timm_files_of_eva_are_the_same_backbone(tmp_path):
    tracker = make("eva")
    official = {"mask_token": torch.zeros(1), "norm.weight": torch.ones(32)}
    for name, tensor in tracker.backbone.items():
        for ours, theirs in EVA.items():
            name = name.replace(ours, theirs)
        official[name] = tensor
    del official["fc_norm.weight"], official["fc_norm.bias"]
    files = [
        write(tmp_path / "timm.safetensors", tracker.backbone),
        write(tmp_path / "official.pth", official),
        tmp_path / "nested.pt",
    ]
    torch.save({"model": official}, files[2])
    prints = {load_backbone(tracker.variant.backbone, file).fingerprint() for file in files}
    assert len(prints) == 1
    assert build_network(tracker.variant, backbone=files[1]).fingerprint in prints


@pytest.mark.parametrize("family", FAMILIES)
def test_timms_files_of_every_family_are_read(family, tmp_path):
    tracker = make(family)
    head = {"head.weight": torch.zeros(5, 32), "head.bias": torch.zeros(5)}
    file = write(tmp_path / "timm.safetensors", tracker.backbone | head)
    network = build_network(tracker.variant, backbone=file)
    last = network.blocks[-1]
    mlp = last.mlp.w3 if "gated" in family else last.mlp.fc2
    assert torch.equal(mlp.weight, tracker.backbone["blocks.2.mlp.fc2.weight"])
    assert torch.equal(last.norm1.bias, tracker.backbone["blocks.2.norm1.bias"])


def test_reading_a_backbone_does_not_change_its_file(forms):
    variant, timms, _ = forms
    before = timms.read_bytes()
    network = build_network(variant.model_copy(update={"lora": None}), backbone=timms)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert timms.read_bytes() == before


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


@pytest.mark.parametrize("content", [None, b"", b"hello, this is no file of tensors", b"\x40" + b"\0" * 7 + b"{"])
def test_missing_and_damaged_files_are_named(make_variant, tmp_path, content):
    path = tmp_path / "bad.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.safetensors" if content is not None else r"bad\.safetensors: no such"):
        build_network(make_variant(), backbone=path)
