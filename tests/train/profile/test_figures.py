"""What wandb is told of a network's cost."""

import pytest
import torch

from lorat.configs.schema import LoraConfig
from lorat.train.network.blocks.lora import LoraLinear
from lorat.train.profile import figures
from lorat.train.profile.count import count_frame, count_parameters, materialise

CPU = torch.device("cpu")


@pytest.mark.parametrize("lora", [LoraConfig(rank=4, alpha=4.0), None])
def test_a_frame_is_timed_as_a_tracker_holds_the_network_and_a_pair_as_a_training_does(monkeypatch, tiny_variant, lora):
    variant, networks = tiny_variant.model_copy(update={"lora": lora}), []
    monkeypatch.setattr(figures, "materialise", lambda *given: networks.append(materialise(*given)) or networks[-1])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    told = figures.network_figures(variant, CPU, torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), before)
    tracker, trained = networks
    assert {p.dtype for name, p in tracker.named_parameters() if name.endswith("fc1.weight")} == {torch.bfloat16}
    assert any(isinstance(module, LoraLinear) for module in trained.modules()) == (lora is not None)
    assert {p.dtype for p in trained.parameters() if p.requires_grad} == {torch.float32}
    frame, pairs = count_frame(variant), count_parameters(variant)["LoRA"][0]
    assert told["model_num_param"] - told["model_num_param_eval"] == pairs
    assert told["model_mac_train"] * 2 == frame.beside > frame.track == told["model_mac_track"] * 2
    assert min(told["model_latency_ms"], told["model_latency_ms_train"]) > 0
