"""LoRATv2 as published: training, and tracking with what earlier frames left."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lorat.train.network.trained import load_network
from lorat.train.network.variants import assemble, empty_network
from lorat.train.network.weights.published import published_tensors, to_file
from tests.train.network.family import (
    assert_gradients,
    assert_near,
    assert_same,
    image,
    loratv2,
    loratv2_inputs,
    losses_of,
    phase_file,
    published_loratv2,
)
from tests.train.network.golden import published_gradients

PHASES = (1, 2)


@pytest.fixture
def arrays(published):
    return lambda phase: dict(np.load(published / f"g12_loratv2_p{phase}_io.npz"))


@pytest.fixture
def tracked(published, tmp_path):
    """A merged network of a phase."""

    def load(phase, **lora):
        backbone = published / "g12_loratv2_backbone.safetensors"
        path = phase_file(published, phase, tmp_path)
        return load_network(path, backbone=backbone, variant=loratv2(phase, **lora))[0]

    return load


@pytest.mark.parametrize("phase", PHASES)
def test_a_training_step_is_the_published_one(phase, published, arrays, tmp_path):
    network, own = published_loratv2(published, phase, tmp_path), arrays(phase)
    seen = {}
    network.blocks[0].register_forward_hook(lambda module, inputs, output: seen.update(into=inputs[0], out=output[0]))
    (prediction,) = network.predict(*loratv2_inputs(own, phase))
    assert [x.shape[1] for x in seen["into"]] == own["chunk_sizes"].tolist()
    assert_near(torch.cat(list(seen["into"]), 1)[:1], own["tokens_in"])
    assert_near(torch.cat(seen["out"], 1)[:1], own["block0_out"])
    assert_same(prediction, own)
    losses = losses_of(prediction, own)
    assert losses.total.item() == pytest.approx(own["loss"], rel=1e-5)
    assert losses.score.item() == pytest.approx(own["loss_bce"], rel=1e-5)
    assert losses.box.item() == pytest.approx(own["loss_giou"], rel=1e-5)
    losses.total.backward()
    for parameter in network.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        parameter.data = torch.full_like(parameter, torch.nan) if parameter.grad is None else parameter.data
    found = {name: g for name, g in to_file(published_gradients(network), "timm").items() if not g.isnan().any()}
    assert_gradients(found, load_file(published / f"g12_loratv2_p{phase}_grads.safetensors"))


@pytest.mark.parametrize("phase", PHASES)
def test_merged_streams_give_the_published_outputs_at_another_alpha_too(phase, published, arrays, tracked):
    own = arrays(phase)
    with torch.inference_mode():
        assert_same(tracked(phase).predict(*loratv2_inputs(own, phase))[0], own, prefix="merged_")
        (prediction,) = tracked(phase, alpha=16.0).predict(*loratv2_inputs(own, phase))
    assert_near(
        prediction.score_map, np.load(published / "g12_loratv2_inference.npz")[f"alpha2r_p{phase}_merged_score_map"]
    )


@pytest.mark.parametrize("phase", PHASES)
def test_alpha_counts_in_training_as_it_does_merged(phase, published, arrays, tmp_path):
    network, own = published_loratv2(published, phase, tmp_path), arrays(phase)
    variant = loratv2(phase, alpha=16.0)
    scaled = assemble(variant, None)
    for pairs in zip(scaled.named_parameters(), network.parameters(), strict=True):
        (_, mine), theirs = pairs
        mine.data = theirs.data
    (prediction,) = scaled.predict(*loratv2_inputs(own, phase))
    assert_near(
        prediction.score_map, np.load(published / "g12_loratv2_inference.npz")[f"alpha2r_p{phase}_merged_score_map"]
    )


@pytest.mark.parametrize("phase", PHASES)
def test_memories_and_what_is_tracked_with_them_are_the_published_ones_in_any_slots(phase, published, arrays, tracked):
    network, own = tracked(phase), arrays(phase)
    theirs = dict(np.load(published / "g12_loratv2_inference.npz"))
    template, mask, search, reference = loratv2_inputs(own, phase)
    slots = torch.from_numpy(theirs["slots"]).long()
    with torch.inference_mode():
        memory = torch.full((4, *network.memory_shape), torch.nan)
        memory[slots, ..., : network.template_length, :] = network.remember_template(template[:, 0], mask[:, 0])
        if phase == 2:
            memory[slots] = network.remember_reference(memory[slots], reference)

        def track(slots, search):
            return network.follow(memory[slots], search).prediction

        keys = dict[int, tuple[torch.Tensor, torch.Tensor]]()  # with the tracked frame's, which are not kept
        for at, block in enumerate(network.blocks):
            block.register_forward_hook(lambda module, inputs, output, at=at: keys.update({at: output[1]}))
        assert_same(track(slots, search[:, 0]), theirs, "_1", f"p{phase}_")
        if phase == 2:
            norms = [[[held[row].norm().item() for held in keys[at]] for at in range(3)] for row in range(2)]
            np.testing.assert_allclose(norms, theirs["p2_cache_norms"], rtol=1e-5)
        second = image(theirs[f"p{phase}_x_2_u8"])
        assert_same(track(slots, second), theirs, "_2", f"p{phase}_")
        turned = {name: array[::-1] for name, array in theirs.items() if name.endswith("_2")}
        assert_same(track(slots.flip(0), second.flip(0)), turned, "_2", f"p{phase}_")
        if phase == 1:
            return
        memory[slots[:1]] = network.remember_reference(memory[slots[:1]], image(theirs["p2_ref_2_u8"]))
        assert_same(track(slots, second), theirs, "_3", "p2_")
        for name, held in zip("kv", keys[2], strict=True):
            assert_near(held[0], theirs[f"p2_cache_{name}_last"])


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("template", "reference", "search"), [(14, 14, 14), (28, 42, 56), (56, 14, 70), (70, 70, 70)])
def test_tracking_equals_training_at_every_length(phase, template, reference, search):
    torch.manual_seed(3)
    sizes = {"template_size": template, "search_size": search, "reference_size": reference if phase == 2 else None}
    network = assemble(loratv2(phase).model_copy(update=sizes), None).eval()
    for block in network.blocks:  # timm's initial scales would hide the blocks
        block.ls1.gamma.data.fill_(0.5)
        block.ls2.gamma.data.fill_(0.5)
    grid = template // 14
    crops = torch.randn(2, 1, 3, template, template), torch.rand(2, 1, grid, grid) > 0.5
    last = torch.randn(2, 1, 3, search, search), torch.randn(2, 3, reference, reference) if phase == 2 else None
    with torch.no_grad():
        whole = network.predict(*crops, *last)[0]
        found = network.follow(network.remember(*crops, last[1]), last[0][:, 0]).prediction
        alone = network.follow(
            network.remember(*(x[:1] for x in crops), None if last[1] is None else last[1][:1]), last[0][:1, 0]
        )
    torch.testing.assert_close(found.score_map, whole.score_map, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.boxes, whole.boxes, rtol=0, atol=1e-6)
    torch.testing.assert_close(alone.prediction.score_map, found.score_map[:1], rtol=0, atol=1e-6)


def test_a_sequences_memory_has_one_size():
    network = empty_network(loratv2(2))
    assert network.memory_shape == (3, 2, 2, 4 + 36 + 36, 32)


def test_the_second_phase_leaves_the_first_as_it_was_and_drops_samples_from_all_frames_alike(monkeypatch):
    torch.manual_seed(0)
    variant = loratv2(2).model_copy(update={"drop_path": 0.4})
    network = assemble(variant, None).train()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    names = {name for name in trained if name.startswith("blocks.0.")}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert names == {f"blocks.0.{layer}.lora_{factor}.2" for layer in layers for factor in "ab"}
    assert trained - {name for name in trained if name.startswith("blocks.")} == {
        "search_type_embed",
        *(f"head.{name}" for name, _ in network.head.named_parameters()),
    }
    inputs = (
        torch.randn(8, 1, 3, 84, 84),
        torch.ones(8, 1, 6, 6),
        torch.randn(8, 1, 3, 140, 140),
        torch.randn(8, 3, 84, 84),
    )
    (prediction,) = network.predict(*inputs)
    (prediction.score_map.sum() + prediction.boxes.sum()).backward()
    assert all((p.grad is not None) == (name in trained) for name, p in network.named_parameters())
    plain = copy.deepcopy(network).eval()
    monkeypatch.setattr(torch, "randperm", lambda count, device=None: torch.arange(count))
    with torch.no_grad():
        state = torch.random.get_rng_state()
        both = []
        for one in (network, network):
            torch.random.set_rng_state(state)
            both.append(one.predict(*inputs)[0].score_map)
        assert torch.equal(*both)
        assert not torch.equal(both[0], plain.predict(*inputs)[0].score_map)


@pytest.mark.parametrize("phase", PHASES)
def test_without_pairs_every_stream_has_layers_of_its_own(phase):
    network = assemble(loratv2(phase).model_copy(update={"lora": None}), None).train()
    trained, frozen = published_tensors(network)
    streams = phase + 1
    assert frozen == {}
    assert {f"blocks.2.mlp.fc1.{stream}.weight" for stream in range(streams)} <= trained.keys()
    found = network.predict(
        torch.randn(2, 1, 3, 84, 84),
        torch.ones(2, 1, 6, 6),
        torch.randn(2, 1, 3, network.search_grid * 14, network.search_grid * 14),
        torch.randn(2, 3, 84, 84) if phase == 2 else None,
    )
    (found[0].score_map.sum() + found[0].boxes.sum()).backward()
    assert [n for n, p in network.named_parameters() if (p.grad is not None) != p.requires_grad] == []
    assert all(parameter.requires_grad for parameter in network.parameters())
