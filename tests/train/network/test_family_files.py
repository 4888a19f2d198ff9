"""Files of SPMTrack and LoRATv2: published ones come in, ours go out under the same names."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorat.configs.load import load_variant
from lorat.shards.base.errors import UserError
from lorat.train.network.reading import read_weights
from lorat.train.network.trained import export_merged, export_published, load_network, load_weights, save_weights
from lorat.train.network.variants import assemble, build_network, empty_network
from lorat.train.network.weights.containers import read_joined
from tests.train.network.family import (
    assert_same,
    both_phases,
    loratv2,
    loratv2_inputs,
    published_loratv2,
    published_spmtrack,
    spmtrack,
    spmtrack_inputs,
)


@pytest.fixture
def first(published):
    return published / "g12_loratv2_p1_file.safetensors"


@pytest.fixture
def second(published):
    return published / "g12_loratv2_p2_file.safetensors"


@pytest.fixture
def start(published):
    return published / "g12_loratv2_backbone.safetensors"


def as_published(network, variant, path, **how):
    """A network's checkpoint, exported in the published form."""
    save_weights(path / "own.safetensors", network, variant)
    export_published(read_weights(path / "own.safetensors"), path / "model.bin", **how)
    return load_file(path / "model.bin")


def scratch(variant):
    """The variant without pretrained weights."""
    return variant.model_copy(update={"backbone": variant.backbone.model_copy(update={"pretrained": False})})


@pytest.mark.parametrize("scalars", [True, False])
def test_spmtracks_file_goes_out_as_published_and_comes_back(published, tmp_path, scalars, said):
    keys = json.loads((published / "g11_spmtrack_state_keys.json").read_text())
    network = published_spmtrack(published, spmtrack())
    network.fingerprint = ""  # of an invented backbone, so the checkpoint holds none
    written = as_published(network, spmtrack(), tmp_path, scalars=scalars)
    wanted = (
        keys["published_file"]
        if scalars
        else {k: v for k, v in keys["published_file"].items() if k not in keys["scalars"]}
    )
    assert {name: {"shape": list(t.shape), "dtype": str(t.dtype)} for name, t in written.items()} == wanted
    again = assemble(spmtrack(), None)
    with torch.no_grad():
        for name, parameter in again.named_parameters():
            if not parameter.requires_grad:
                parameter.copy_(network.get_parameter(name))
    load_weights(tmp_path / "model.bin", again)
    for name, parameter in network.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name
    assert "expert_alpha" not in said.text


def test_a_scalar_that_contradicts_the_variant_is_said_and_counts(published, tmp_path, said):
    state = load_file(published / "g11_spmtrack_state.safetensors")
    halved = {name: tensor / 2 if ".routed_experts." in name else tensor for name, tensor in state.items()}
    save_file(halved | {"expert_alpha": torch.tensor(32), "use_rsexpert": torch.tensor(False)}, tmp_path / "model.bin")
    arrays = dict(np.load(published / "g11_spmtrack_io.npz"))
    network, variant = load_network(tmp_path / "model.bin", variant=spmtrack())
    assert variant.lora.alpha == 32
    assert "expert_alpha and use_rsexpert tell a scale of 4, the variant 2" in said.text
    with torch.no_grad():
        for frame, prediction in enumerate(network.predict(*spmtrack_inputs(arrays))):
            assert_same(prediction, arrays, f"_{frame}")
    said.clear()
    live = assemble(spmtrack(), None)
    load_weights(tmp_path / "model.bin", live)
    assert "tell a scale of 4" in said.text
    assert_same(live.predict(*spmtrack_inputs(arrays))[0], arrays, "_0")


def test_a_whole_file_has_experts_beside_the_weights_under_the_published_names(published, tmp_path, said):
    file = read_weights(published / "g11_spmtrack_state.safetensors", spmtrack())
    said.set_level(logging.INFO, "lorat")
    export_merged(file, tmp_path / "whole.safetensors", torch.float32)
    assert "weighed anew for each token, are not merged but stand beside" in said.text
    keys = json.loads((published / "g11_spmtrack_state_keys.json").read_text())
    wanted = {*keys["published_file"], *keys["frozen"]} - keys["scalars"].keys()
    assert load_file(tmp_path / "whole.safetensors").keys() == wanted


@pytest.mark.parametrize("phase", [1, 2])
def test_loratv2s_files_have_the_published_names_and_values(published, phase, first, second, tmp_path):
    network, variant = published_loratv2(published, phase, tmp_path), loratv2(phase)
    theirs = load_file(first if phase == 1 else second)
    written = as_published(network, variant, tmp_path)
    assert written.keys() == theirs.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in theirs.items())
    own = load_file(tmp_path / "own.safetensors")  # of the second phase it has the first one's part, without its head
    rest = {name: tensor for name, tensor in load_file(first).items() if phase == 1 or not name.startswith("heads.")}
    assert own.keys() == theirs.keys() | rest.keys()


@pytest.mark.parametrize("phase", [1, 2])
def test_a_merged_file_is_the_published_inference_form_and_needs_no_other(published, phase, start, tmp_path):
    network, variant = published_loratv2(published, phase, tmp_path), loratv2(phase)
    save_weights(tmp_path / "own.safetensors", network, variant)
    export_merged(
        read_weights(tmp_path / "own.safetensors"), tmp_path / "all.safetensors", torch.float32, backbone=start
    )
    forms = json.loads((published / "g12_loratv2_state_keys.json").read_text())
    held, wanted = load_file(tmp_path / "all.safetensors"), forms[f"p{phase}_inference"]
    # Of search regions that are not tracked, nothing reads head and norm.
    assert wanted.keys() - held.keys() == {n for n in wanted if phase == 2 and n.startswith(("heads.0.", "norms.0."))}
    for name, tensor in held.items():
        assert list(tensor.shape) == wanted[name]["shape"]
        assert tensor.double().norm().item() == pytest.approx(wanted[name]["norm"], rel=1e-5), name
        assert tensor.double().sum().item() == pytest.approx(wanted[name]["sum"], abs=1e-4 * wanted[name]["norm"]), name
    alone, _ = load_network(tmp_path / "all.safetensors")
    arrays = dict(np.load(published / f"g12_loratv2_p{phase}_io.npz"))
    with torch.no_grad():
        assert_same(alone.predict(*loratv2_inputs(arrays, phase))[0], arrays, prefix="merged_")


def test_the_second_phase_alone_is_no_tracker_and_with_the_first_it_is(published, first, second, start, tmp_path):
    with pytest.raises(UserError, match=r"second phase alone.*--weights FIRST --weights"):
        load_network(second, variant=loratv2(2), backbone=start)
    network, _ = load_network(second, before=[first], variant=loratv2(2), backbone=start)
    whole, _ = load_network(both_phases(published, tmp_path / "both.bin"), variant=loratv2(2), backbone=start)
    assert all(torch.equal(p, whole.get_parameter(name)) for name, p in network.named_parameters())


def test_the_second_phase_trains_on_from_a_checkpoint_of_the_first(published, start, tmp_path):
    one = published_loratv2(published, 1, tmp_path)
    save_weights(tmp_path / "first.safetensors", one, loratv2(1))
    two = build_network(loratv2(2), backbone=start)
    before = {name: p.detach().clone() for name, p in two.named_parameters() if p.requires_grad}
    load_weights(tmp_path / "first.safetensors", two, layout="timm")
    for name, parameter in one.named_parameters():
        if not name.startswith("head."):
            assert torch.equal(two.get_parameter(name), parameter), name
    assert all(torch.equal(two.get_parameter(name), value) for name, value in before.items())
    broken = load_file(tmp_path / "first.safetensors")
    del broken["blocks.1.mlp.fc1.1.lora.A"]
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match=r"missing: blocks\.1\.mlp\.fc1\.1\.lora\.A"):
        load_weights(tmp_path / "broken.safetensors", two)


def test_both_published_files_are_trained_on_together(published, first, second, start, tmp_path):
    network = build_network(loratv2(2), backbone=start)
    with pytest.raises(UserError, match=r"second phase alone.*--weights FIRST --weights"):
        load_weights(second, network)
    load_weights(second, network, before=[first])
    arrays = dict(np.load(published / "g12_loratv2_p2_io.npz"))
    with torch.no_grad():
        assert_same(network.train().predict(*loratv2_inputs(arrays, 2))[0], arrays)
    with pytest.raises(UserError, match=r"holds nothing that .*both\.bin lacks; give one of them"):
        load_weights(both_phases(published, tmp_path / "both.bin"), network, before=[second])


def test_two_phases_of_other_scales_are_not_put_together(tmp_path):
    for name, alpha in (("first", "16"), ("second", "32")):
        save_file({name: torch.ones(1)}, tmp_path / f"{name}.safetensors", {"lora_alpha": alpha})
    with pytest.raises(UserError, match=r"first\.safetensors: its pairs have lora_alpha 16, those of .*second.* 32"):
        read_joined(tmp_path / "second.safetensors", [tmp_path / "first.safetensors"])


def test_a_first_phase_on_a_backbone_from_scratch_brings_it_along(tmp_path):
    one, two = (scratch(loratv2(phase)) for phase in (1, 2))
    first, again = assemble(one, None), assemble(two, None)
    save_weights(tmp_path / "first.safetensors", first, one)
    load_weights(tmp_path / "first.safetensors", again, layout="timm")
    for name, parameter in first.named_parameters():
        if not name.startswith("head."):
            assert torch.equal(again.get_parameter(name), parameter), name
    save_weights(tmp_path / "second.safetensors", again, two)
    assert load_network(tmp_path / "second.safetensors")[1].reference_size == 84


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("loratv2-p1-B-224", 131_444_741),
        ("loratv2-p2-B-378", 271_970_314),
        ("loratv2-p1-L-224", 440_770_565),
        ("loratv2-p2-L-378", 945_516_554),
    ],
)
def test_what_streams_share_here_is_all_that_published_networks_have_more(name, published):
    variant = load_variant(name)
    network = empty_network(variant)
    count = sum(parameter.numel() for parameter in network.parameters())
    layers = {
        path: module
        for path, module in network.blocks.named_modules()
        if path.endswith((".qkv", ".proj", ".fc1", ".fc2"))
    }
    size = {path: layer.weight.numel() + layer.bias.numel() for path, layer in layers.items()}
    if variant.reference_size is None:  # queries, keys and values of the second stream
        more = sum(numbers for path, numbers in size.items() if path.endswith(".qkv"))
    else:  # two streams merged, without their pairs, and the first phase's norm and head
        pairs = sum(layer.lora_a[i].numel() + layer.lora_b[i].numel() for layer in layers.values() for i in (0, 1))
        more = 2 * sum(size.values()) - pairs
        more += sum(p.numel() for part in (network.norm, network.head) for p in part.parameters())
    assert count + more == published
