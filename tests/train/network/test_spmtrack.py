"""SPMTrack as published: both frames of a training sample, and a sequence with its state."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lorat.configs.load import load_variant
from lorat.configs.schema import TrainConfig
from lorat.train.network.blocks.lorat import Prediction
from lorat.train.network.trained import load_network
from lorat.train.network.variants import assemble
from lorat.train.step.optimizer import box_weight
from tests.train.network.family import (
    assert_gradients,
    assert_near,
    assert_same,
    image,
    losses_of,
    published_spmtrack,
    spmtrack,
    spmtrack_inputs,
)
from tests.train.network.golden import published_gradients


@pytest.fixture(scope="module")
def arrays(published):
    return dict(np.load(published / "g11_spmtrack_io.npz"))


def test_a_sample_from_tokens_to_losses_and_every_gradient_is_the_published_one(published, arrays):
    network = published_spmtrack(published, spmtrack())
    seen = {}
    network.blocks[0].register_forward_hook(lambda module, inputs, output: seen.setdefault("block0", []).append(output))
    network.norm.register_forward_hook(lambda module, inputs, output: seen.setdefault("norm", []).append(output))
    template, mask, search = spmtrack_inputs(arrays)
    found = network.predict(template, mask, search)
    tokens = network.remember(template, mask)
    assert_near(tokens[:, :36], arrays["z_0_feat"])
    # Ours stands before the search tokens, theirs before all.
    block = torch.cat((seen["block0"][0][:, 108:109], seen["block0"][0][:, :108], seen["block0"][0][:, 109:]), 1)
    assert_near(block, arrays["block0_out_0"])
    total = 0
    for frame, prediction in enumerate(found):
        assert_same(prediction, arrays, f"_{frame}")
        own, rest = seen["norm"][frame].split((1, 81), dim=1)
        assert_near(own, arrays[f"state_{frame}"])
        assert_near((rest * own).sum(-1, keepdim=True), arrays[f"gate_{frame}"])
        losses = losses_of(prediction, arrays, f"_{frame}")
        assert losses.score.item() == pytest.approx(arrays[f"loss_bce_{frame}"], rel=1e-5)
        assert losses.box.item() == pytest.approx(arrays[f"loss_giou_{frame}"], rel=1e-5)
        total = total + losses.total
    assert total.item() == pytest.approx(arrays["loss"], rel=1e-5)
    boxes = sum(losses_of(prediction, arrays, f"_{frame}").box for frame, prediction in enumerate(found)).item()
    for step, name in enumerate(("loss_warmup", "loss_after_warmup")):
        weight = box_weight(step, TrainConfig(box_warmup_epochs=1, pairs_per_epoch=2, batch_size=2))
        weighed = total.item() + (weight - 1) * boxes
        assert weighed == pytest.approx(arrays[name], rel=1e-5)
    total.backward()
    assert_gradients(published_gradients(network), load_file(published / "g11_spmtrack_grads.safetensors"))


def test_the_second_frames_gradient_does_not_reach_the_first(published, arrays):
    network = published_spmtrack(published, spmtrack())
    losses_of(network.predict(*spmtrack_inputs(arrays))[1], arrays, "_1").total.backward()
    wanted = json.loads((published / "g11_spmtrack_grad_norms.json").read_text())["frame_1_only"]
    norms = {name: gradient.norm().item() for name, gradient in published_gradients(network).items()}
    assert norms == pytest.approx(wanted, rel=1e-4)


def test_a_gated_backbone_gives_the_published_outputs_and_gradients(published, arrays):
    network = published_spmtrack(published, spmtrack(gated=True), "g11_spmtrack_swiglu_state")
    own = dict(np.load(published / "g11_spmtrack_swiglu_io.npz"))
    found = network.predict(*(tensor[:1] for tensor in spmtrack_inputs(arrays)))
    for frame, prediction in enumerate(found):
        assert_same(prediction, own, f"_{frame}")
    cells = {f"_{i}": arrays[f"pos_batch_{i}"] == 0 for i in range(2)}
    first = arrays | {
        f"{name}{i}": arrays[f"{name}{i}"][own0] for i, own0 in cells.items() for name in ("pos_batch", "pos_map")
    }
    total = sum(losses_of(prediction, first, f"_{i}", rows=1).total for i, prediction in enumerate(found))
    assert total.item() == pytest.approx(own["loss"], rel=1e-5)
    total.backward()
    gradients = published_gradients(network)
    wanted = {name.removeprefix("grad/"): torch.from_numpy(g) for name, g in own.items() if name.startswith("grad/")}
    assert_gradients({name: gradients[name] for name in wanted}, wanted)


@pytest.mark.parametrize("carried", [True, False])
def test_sequences_side_by_side_carry_their_state_or_drop_it(published, carried):
    network, _ = load_network(published / "g11_spmtrack_state.safetensors", variant=spmtrack())
    arrays = dict(np.load(published / "g11_spmtrack_sequence.npz"))
    states = dict[int, torch.Tensor]()
    for call, (ids, chosen) in enumerate(zip(arrays["ids"], arrays["selection"], strict=True)):
        rows = [i for i in ids if i >= 0]
        frame = image(arrays["search_u8"][rows, call])
        templates, masks = (arrays[name][rows][:, chosen] for name in ("template_u8", "template_mask"))
        zero = torch.zeros(1, 1, 64)
        state = torch.cat([states.get(i, zero) for i in rows]) if carried else None
        with torch.inference_mode():
            memory = network.remember(image(templates), torch.from_numpy(masks))
            prediction, state = network.follow(memory, frame, state)
        for row, i in enumerate(rows):
            states[i] = state[row : row + 1]
            if carried:
                assert_same(
                    Prediction(*(t[row] for t in prediction)), {k: arrays[k][call, i] for k in ("score_map", "boxes")}
                )
                assert_near(state[row, 0], arrays["state"][call, i])
            else:
                assert_near(prediction.score_map[row], arrays["score_map_zero_state"][call, i])


def test_everything_that_is_new_is_drawn():
    network = assemble(spmtrack(), None)
    for parameter in (network.track_query, network.query_embed, network.token_type_embed):
        assert 0.01 < parameter.std().item() < 0.03
    assert not torch.equal(network.track_query, network.query_embed)
    assert network.tokens == 3 * 36 + 1 + 81


def test_from_scratch_what_the_head_sees_begins_small():
    variant = load_variant("spmtrack-toy")
    norms = [assemble(one, None).norm.weight for one in (variant, variant.model_copy(update={"method": "lorat"}))]
    assert norms[0].unique().tolist() == [pytest.approx(0.2)] and norms[1].unique().tolist() == [1.0]


@pytest.mark.parametrize("name", ["eva02_base_patch14_224.mim_in22k", "vit_base_patch16_dinov3.lvd1689m"])
def test_the_state_token_has_no_place_where_places_turn_tokens(name):
    variant = spmtrack()
    args = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 14}
    backbone = variant.backbone.model_copy(update={"timm": name, "args": args})
    network = assemble(variant.model_copy(update={"backbone": backbone}), None).eval()
    sine, cosine = network.rotation
    assert sine.shape[0] == network.tokens
    assert not sine[108].any()
    assert (cosine[108] == 1).all()
    assert torch.equal(sine[:36], sine[36:72])
    with torch.no_grad():
        template, mask, search = torch.randn(1, 3, 3, 84, 84), torch.ones(1, 3, 6, 6), torch.randn(1, 2, 3, 126, 126)
        assert all(prediction.score_map.isfinite().all() for prediction in network.predict(template, mask, search))
