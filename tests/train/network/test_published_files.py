"""Published files of every container, family and form load, and ours are written the same way.

Released files could not be had; these are made as the published format's description says.
"""

import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorat.configs.load import load_variant
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.positions import place_positions
from lorat.train.network.reading import read_weights
from lorat.train.network.trained import export_merged, export_published, load_network, load_weights, save_weights
from lorat.train.network.variants import assemble, build_network
from lorat.train.network.weights.backbones import load_backbone
from lorat.train.network.weights.containers import read_tensors
from lorat.train.network.weights.published import from_file, is_gated, published_tensors, to_file
from tests.train.network.published_files import DEPTH, FAMILIES, GRID, RANK, WIDTH, make, variant_of, write

OLD = {"lora_alpha": torch.tensor(12), "use_rslora": torch.tensor(False)}
CONTAINERS = {
    "model.bin": (OLD, 12 / RANK),
    "model.safetensors": ({}, 8 / RANK),
    "model.pth": ({"lora_alpha": torch.tensor(6.0), "use_rslora": torch.tensor(True)}, 3.0),
    "deepspeed.pt": ({}, 8 / RANK),
}
"""File name → scalars in it, and the scale that follows for variants of alpha 8."""


@pytest.fixture(params=FAMILIES)
def tracker(request):
    return make(request.param)


official = pytest.mark.parametrize("tracker", ["official"], indirect=True)


@pytest.fixture
def backbone(tracker, tmp_path):
    return write(tmp_path / "backbone.safetensors", tracker.backbone)


def place(tensors, tracker):
    """Bring learned positions, where there are any, to the tracker's grid."""
    if "pos_embed" in tensors:
        grid, layout = tracker.variant.search_size // 14, tracker.variant.backbone.layout
        tensors["pos_embed"] = place_positions(tensors["pos_embed"], grid, layout)


def assert_computes(network, tracker, scale):
    """Every tensor of a loaded network is the one that the published merge gives."""
    wanted = dict(tracker.merged(scale))
    place(wanted, tracker)
    for name in [name for name in wanted if ".attn.q." in name]:
        pieces = wanted.pop(name), wanted.pop(name.replace(".q.", ".kv."))
        wanted[name.replace(".q.", ".qkv.")] = torch.cat(pieces)
    if "gated" in tracker.variant.name:
        for name in [name for name in wanted if ".mlp.fc" in name]:
            ours = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
            wanted[ours] = wanted.pop(name)
    found = dict(network.named_parameters())
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_loads_with_its_scale(name, tracker, backbone, tmp_path):
    scalars, scale = CONTAINERS[name]
    path = write(tmp_path / name, tracker.trained() | scalars)
    network, variant = load_network(path, backbone=backbone, variant=tracker.variant)
    assert_computes(network, tracker, scale)
    assert variant.lora.rank == RANK
    assert variant.lora.alpha == scalars.get("lora_alpha", torch.tensor(8.0)).item()


@pytest.mark.parametrize("form", ["whole", "merged"])
def test_files_with_the_backbone_need_no_other(form, tracker, tmp_path):
    tensors = tracker.whole() if form == "whole" else tracker.merged(2.0)
    place(tensors, tracker)
    network, _ = load_network(write(tmp_path / "all.pth", tensors), variant=tracker.variant)
    assert_computes(network, tracker, 2.0)


def test_network_that_was_trained_whole_loads_and_goes_back_to_the_same_file(tracker, tmp_path):
    tensors = tracker.merged(0.0)
    if "pos_embed" in tensors:
        tensors["pos_embed"] = tensors["pos_embed"][:, : (GRID - 2) ** 2].contiguous()
    native = {"img_size": 14 * (GRID - 2)}
    config = tracker.variant.backbone
    config = config.model_copy(update={"args": config.args | native, "pretrained": False})
    variant = tracker.variant.model_copy(update={"lora": None, "backbone": config})
    network = build_network(variant)
    load_weights(write(tmp_path / "baseline.bin", tensors), network, layout=config.layout)
    save_weights(tmp_path / "ours.safetensors", network, variant)
    ours = load_file(tmp_path / "ours.safetensors")
    assert ours.keys() == tensors.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in tensors.items())


def test_file_of_one_crop_size_serves_another(tracker, backbone, tmp_path):
    larger = make(tracker.variant.name.rpartition("-")[0], search=112)
    path = write(tmp_path / "model.bin", tracker.trained())
    network, _ = load_network(path, backbone=backbone, variant=larger.variant)
    assert network.search_grid == 8 > GRID
    assert_computes(network, larger, 2.0)


def test_training_goes_on_from_a_published_file(tracker, backbone, tmp_path):
    path = write(tmp_path / "model.bin", tracker.trained() | OLD)
    variant = tracker.variant  # alpha 8, not the file's 12
    network = build_network(variant, backbone=backbone)
    load_weights(path, network, layout=variant.backbone.layout)
    save_weights(tmp_path / "ours.safetensors", network, variant)
    loaded, _ = load_network(tmp_path / "ours.safetensors", backbone=backbone)
    assert_computes(loaded, tracker, 12 / RANK)


def test_checkpoint_has_the_published_names_and_values(tracker, backbone, tmp_path):
    tensors = tracker.trained()
    network = build_network(tracker.variant, backbone=backbone)
    load_weights(write(tmp_path / "published.bin", tensors), network)
    save_weights(tmp_path / "ours.safetensors", network, tracker.variant)
    ours = load_file(tmp_path / "ours.safetensors")
    assert ours.keys() == tensors.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("form", ["trained", "whole", "merged"])
def test_names_go_into_memory_and_back_bit_for_bit(form, tracker, tmp_path):
    tensors = tracker.merged(1.0) if form == "merged" else getattr(tracker, form)()
    ours = ["blocks.0.mlp.w12.weight"] if "gated" in tracker.variant.name else []
    named, _ = from_file(tmp_path, tensors, {}, None, ours)
    back = to_file(named, tracker.variant.backbone.layout)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    again, _ = from_file(tmp_path, back, {}, None, ours)
    assert again.keys() == named.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in named.items())


@pytest.mark.parametrize("suffix", [".bin", ".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("scalars", [True, False])
def test_published_export_is_the_published_file(tracker, suffix, scalars, tmp_path):
    old = OLD if scalars else {}
    source = write(tmp_path / "published.bin", tracker.trained() | old)
    out = tmp_path / f"export{suffix}"
    export_published(read_weights(source, tracker.variant), out, scalars=scalars)
    assert (out.read_bytes()[8:9] == b"{") == (suffix in (".bin", ".safetensors"))
    wanted, _ = read_tensors(source)
    found, _ = read_tensors(out)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_export_needs_nothing_else(dtype, tracker, backbone, tmp_path):
    source = write(tmp_path / "published.bin", tracker.trained() | OLD)
    out = tmp_path / "merged.safetensors"
    export_merged(read_weights(source, tracker.variant), out, dtype, backbone=backbone)
    direct, _ = load_network(source, backbone=backbone, variant=tracker.variant, dtype=dtype)
    alone, variant = load_network(out, dtype=dtype)
    assert variant.model_copy(update={"lora": None}) == tracker.variant.model_copy(update={"lora": None})
    assert alone.fingerprint == direct.fingerprint != ""
    for name, tensor in direct.named_parameters():
        assert torch.equal(alone.get_parameter(name), tensor), name
    with safe_open(out, "pt") as file:
        assert file.metadata()["merged"] == "true"
    names = load_file(out).keys()
    assert names == tracker.merged(1.0).keys()


@pytest.mark.parametrize("tracker", ["timm-dinov2"], indirect=True)
def test_a_layers_own_scale_goes_before_the_files_and_is_exported(tracker, backbone, tmp_path):
    last = f"blocks.{DEPTH - 1}.attn.kv.v"
    own = {f"{last}.lora.alpha": torch.tensor(40.0), "blocks.0.mlp.fc1.lora.use_rslora": torch.tensor(True)}
    source = write(tmp_path / "a.bin", tracker.trained() | OLD | own)
    export_published(read_weights(source, tracker.variant), tmp_path / "b.pth")
    for path in (source, tmp_path / "b.pth"):
        network, _ = load_network(path, backbone=backbone, variant=tracker.variant)
        for layer, scale in ((last, 10.0), ("blocks.0.mlp.fc1", 6.0), ("blocks.0.attn.proj", 3.0)):
            a, b = tracker.pairs[layer]
            whole = layer.replace("kv.v", "qkv")
            weight = network.get_parameter(f"{whole}.weight")
            if whole != layer:
                weight = weight[-WIDTH:]
            base = tracker.base()[f"{layer.removesuffix('.v')}.weight"][-weight.shape[0] :]
            torch.testing.assert_close(weight, base + scale * (b @ a), rtol=1e-5, atol=1e-5)


@official
def test_without_any_alpha_the_scale_is_one(tracker, backbone, tmp_path):
    path = write(tmp_path / "model.safetensors", tracker.trained())
    no_lora = tracker.variant.model_copy(update={"lora": None})
    network, variant = load_network(path, backbone=backbone, variant=no_lora)
    assert_computes(network, tracker, 1.0)
    assert variant.lora.rank == RANK


@official
def test_rank_is_the_files_layer_by_layer(tracker, backbone, tmp_path):
    layer = "blocks.1.attn.qkv.k"
    tracker.pairs[layer] = torch.randn(2, WIDTH), torch.randn(WIDTH, 2)
    path = write(tmp_path / "model.bin", tracker.trained())
    variant = variant_of("official", rank=64)
    network, told = load_network(path, backbone=backbone, variant=variant)
    assert told.lora.rank == RANK
    a, b = tracker.pairs[layer]
    wanted = tracker.base()["blocks.1.attn.qkv.weight"][WIDTH : 2 * WIDTH] + 8 / 2 * (b @ a)
    found = network.blocks[1].attn.qkv.weight[WIDTH : 2 * WIDTH]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@official
@pytest.mark.parametrize(
    ("told", "rank", "said_of"),
    [
        ({}, RANK, None),
        ({"lora_alpha": torch.tensor(12)}, 64, None),
        ({}, 64, r"rank 4, and the variant's alpha 8 is for rank 64; a scale of 2 is taken"),
        ({}, None, r"rank 4, and the variant has no LoRA; a scale of 1 is taken"),
    ],
)
def test_a_scale_that_nobody_tells_is_said(told, rank, said_of, tracker, tmp_path, said):
    path = write(tmp_path / "model.bin", tracker.trained() | told)
    variant = variant_of("official", rank=rank) if rank else tracker.variant.model_copy(update={"lora": None})
    read_weights(path, variant)
    assert bool(said.text) == (said_of is not None)
    assert re.search(said_of or "", said.text)
    assert "model.bin" in said.text or not said_of


@official
def test_training_on_another_rank_is_refused_with_what_to_set(tracker, backbone, tmp_path):
    network = build_network(variant_of("official", rank=16), backbone=backbone)
    with pytest.raises(UserError, match=r"rank 4, those of the network to train 16.*lora\.rank"):
        load_weights(write(tmp_path / "model.bin", tracker.trained()), network)


@pytest.mark.parametrize(("family", "other"), [("official", "timm-dinov2"), ("clip", "official")])
def test_file_of_the_other_family_is_refused(family, other, tmp_path):
    path = write(tmp_path / "model.bin", make(family).trained())
    variant = variant_of(other)
    with pytest.raises(UserError, match=r"model\.bin.*backbone\.layout"):
        load_network(path, variant=variant)
    network = build_network(
        variant.model_copy(update={"backbone": variant.backbone.model_copy(update={"pretrained": False})})
    )
    with pytest.raises(UserError, match=r"model\.bin.*backbone\.layout"):
        load_weights(path, network, layout=variant.backbone.layout)


def test_misfits_are_listed_under_the_files_own_names(tmp_path):
    tracker = make("timm-gated")
    tensors = tracker.trained()
    last = f"blocks.{DEPTH - 1}"
    del tensors[f"{last}.attn.kv.k.lora.A"]
    tensors[f"{last}.mlp.fc1.lora.B"] = torch.zeros(3, RANK)
    tensors["memory.bank"] = torch.zeros(1)
    with pytest.raises(UserError) as error:
        load_network(write(tmp_path / "odd.pth", tensors), variant=tracker.variant)
    message = error.value.message
    assert f"missing: {last}.attn.kv.k.lora.A" in message
    assert "unexpected: memory.bank" in message
    assert f"misshapen: {last}.mlp.fc1.lora.B (3, 4) instead of" in message


def test_wrong_variant_is_refused_by_names_and_shapes(tmp_path):
    path = write(tmp_path / "model.bin", make("official").trained())
    with pytest.raises(UserError, match=r"missing: .*w12.*unexpected: .*fc1"):
        load_network(path, variant=variant_of("official-gated"))
    wide = variant_of("official")
    args = wide.backbone.args | {"embed_dim": 64}
    wide = wide.model_copy(update={"backbone": wide.backbone.model_copy(update={"args": args, "pretrained": False})})
    with pytest.raises(UserError, match=r"model\.bin"):
        load_network(path, variant=wide)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("name", ["model.bin", "model.pth"])
def test_truncated_files_are_named(name, share, tmp_path):
    path = write(tmp_path / name, make("official").trained())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=name):
        read_weights(path, variant_of("official"))


def test_scalar_that_is_none_is_named(tmp_path):
    tensors = make("official").trained() | {"lora_alpha": torch.zeros(2)}
    with pytest.raises(UserError, match=r"lora_alpha of shape \(2,\)"):
        load_network(write(tmp_path / "model.bin", tensors), variant=variant_of("official"))


class _Hostile:
    def __reduce__(self):
        import os

        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["model.bin", "model.pth", "model.safetensors"])
def test_hostile_pickles_are_refused_and_not_run(name, zipped, tmp_path):
    hostile = _Hostile()
    hostile.place = tmp_path / "was-run"
    path = tmp_path / name
    tensors = make("official").trained() | {"extra": hostile}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    variant = variant_of("official")
    with pytest.raises(UserError, match=name):
        read_weights(path, variant)
    with pytest.raises(UserError, match=name):
        load_backbone(variant.backbone, path)
    assert not hostile.place.exists()


def test_legacy_and_nested_pytorch_files_are_read(tmp_path):
    tensors = make("official").trained()
    torch.save(tensors, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"model": tensors}, tmp_path / "nested.pth")
    for name in ("legacy.bin", "nested.pth"):
        found, _ = read_tensors(tmp_path / name)
        assert all(torch.equal(found[n], tensor) for n, tensor in tensors.items())


@official
def test_own_backbone_beside_the_pairs_must_be_the_networks(tracker, backbone, tmp_path, said):
    same = write(tmp_path / "same.pth", tracker.whole())
    other = write(tmp_path / "other.pth", tracker.whole() | {"norm.bias": torch.full((WIDTH,), 9.0)})
    network = build_network(tracker.variant, backbone=backbone)
    load_weights(same, network)
    with pytest.raises(UserError, match=r"other\.pth.*norm\.bias.*--force-backbone"):
        load_weights(other, network)
    load_weights(other, network, force_backbone=True)
    assert "keeps its own" in said.text
    assert not torch.equal(network.norm.bias, torch.full((WIDTH,), 9.0))


def test_export_without_scalars_warns_where_readers_may_take_another_scale(tmp_path, said):
    path = write(tmp_path / "model.bin", make("official").trained())
    export_published(read_weights(path, variant_of("official")), tmp_path / "b.bin", scalars=False)
    assert "scale 2" in said.text


def test_file_may_say_its_scale_in_its_metadata(tmp_path):
    tracker = make("official")
    tensors = {name: tensor.contiguous() for name, tensor in tracker.trained().items()}
    save_file(tensors, tmp_path / "a.bin", {"lora_alpha": "20", "lora_rslora": "true"})
    save_file(tensors, tmp_path / "b.bin", {"lora_alpha": "many"})
    file = read_weights(tmp_path / "a.bin", tracker.variant)
    assert file.scale("blocks.0.attn.proj") == 10.0
    with pytest.raises(UserError, match="lora_alpha"):
        read_weights(tmp_path / "b.bin", tracker.variant)


@pytest.mark.parametrize(("name", "count"), [("S-224", 157), ("B-378", 157), ("L-224", 301), ("g-224", 493)])
def test_files_of_the_published_variants_have_the_published_number_of_tensors(name, count):
    variant = load_variant(name)
    with torch.device("meta"):
        trained, _ = published_tensors(assemble(variant, None))
    named = to_file(trained, variant.backbone.layout)
    assert len(named) == count
    width = named["token_type_embed"].shape[1]
    assert named["blocks.11.attn.qkv.v.lora.A"].shape == (64, width)
    assert named["blocks.0.attn.proj.lora.B"].shape == (width, 64)


def test_gated_networks_are_told_by_their_names():
    for family in FAMILIES:
        variant = variant_of(family)
        config = variant.backbone.model_copy(update={"pretrained": False})
        network = build_network(variant.model_copy(update={"backbone": config}))
        assert is_gated(published_tensors(network)[1]) == ("gated" in family)
