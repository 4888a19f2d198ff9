import pytest
import torch

from lorat.configs.load import load_variant
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.blocks.lorat import LoRAT
from lorat.train.network.variants import build_network, hold_matrices_in
from tests.train.network.conftest import crops


def test_a_template_embedded_once_serves_many_search_crops(tiny):
    network: LoRAT = tiny[0].eval()
    template, search, mask = crops()
    with torch.no_grad():
        tokens = network.embed_template(template, mask)
        for crop in (search, search.flip(0)):
            tracked, whole = network.track(tokens, crop), network(template, crop, mask)
            assert torch.equal(tracked.score_map, whole.score_map)
            assert torch.equal(tracked.boxes, whole.boxes)


def test_template_mask_bool_or_integer_changes_what_is_found(tiny):
    network = tiny[0].eval()
    template, search, mask = crops()
    with torch.no_grad():
        assert torch.equal(network.embed_template(template, mask), network.embed_template(template, mask.int()))
        maps = [network(template, search, m).score_map for m in (mask, ~mask)]
    assert not torch.allclose(*maps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predictions_are_float32_and_boxes_hold_their_cell(tiny, dtype):
    network = tiny[0].eval()
    merge_adapters(network)
    exact = network(*crops())
    network.requires_grad_(False)
    hold_matrices_in(network, dtype)
    score, boxes = network(*crops())
    assert score.dtype == boxes.dtype == torch.float32
    assert score.shape == (2, 16, 16)
    centre = (torch.arange(16) + 0.5) / 16
    assert (boxes[..., 0] <= centre).all()
    assert (boxes[..., 2] >= centre).all()
    assert (boxes[..., 1] <= centre[:, None]).all()
    assert (boxes[..., 3] >= centre[:, None]).all()
    torch.testing.assert_close(score, exact.score_map, rtol=0, atol=0.02)


def test_autocast_training_step_gives_float32_gradients_to_the_trained_alone(tiny):
    network = tiny[0].train()
    hold_matrices_in(network, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        score, boxes = network(*crops())
    (score.sum() + boxes.sum()).backward()
    for name, parameter in network.named_parameters():
        is_new = name.startswith(("head.", "token_type_embed")) or ".lora_" in name
        assert parameter.requires_grad == is_new, name
        assert (parameter.grad is not None) == is_new, name
        if is_new:
            assert parameter.dtype == parameter.grad.dtype == torch.float32, name


def test_without_lora_everything_is_trained():
    network = build_network(load_variant("toy"))
    score, boxes = network(torch.randn(2, 3, 48, 48), torch.randn(2, 3, 96, 96), torch.ones(2, 6, 6))
    (score.sum() + boxes.sum()).backward()
    assert all(p.requires_grad and p.grad is not None for p in network.parameters())


def test_the_same_batch_gives_the_same_gradients_whatever_the_threads_do():
    config = load_variant("toy")
    network = build_network(config)
    draw = torch.Generator().manual_seed(1)
    template, search = (
        torch.randn(16, 3, side, side, generator=draw) for side in (config.template_size, config.search_size)
    )
    grid = network.template_grid
    mask = torch.rand(16, grid, grid, generator=draw) > 0.5

    def gradients() -> dict[str, torch.Tensor]:
        network.zero_grad()
        out = network(template, search, mask)
        (out.score_map.square().mean() + out.boxes.square().mean()).backward()
        return {name: p.grad.clone() for name, p in network.named_parameters()}

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first, *others = (gradients() for _ in range(6))
    finally:
        torch.set_num_threads(threads)
    for other in others:
        assert [n for n in first if not torch.equal(first[n], other[n])] == []
