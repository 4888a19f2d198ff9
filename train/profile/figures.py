"""What a network costs in a few numbers, under the names that the published trainer gives them on wandb."""

from collections.abc import Callable
from statistics import median

import torch

from lorat.configs.schema import VariantConfig
from lorat.train.network.variants import hold_matrices_in
from lorat.train.profile.count import (
    count_frame,
    count_parameters,
    empty_network,
    made_up_crops,
    materialise,
    tracking_network,
)
from lorat.train.profile.measure import seconds_of

_LOOPS = {"cpu": (1, 5)}  # to warm up, and measured
_LOOPS_GPU = (10, 100)


def network_figures(variant: VariantConfig, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return what `variant` costs: parameters as trained (``model_num_param``, ``…_trainable``) and with LoRA merged
    (``…_eval``); multiply-adds of a template, of a tracked frame and of a pair with LoRA beside its layers
    (``model_mac_init``, ``…_track``, ``…_train``), those of the frame as ``model_gflop`` too; and the median times on
    `device` of one frame (``model_latency_ms``, ``model_fps``) and of one pair forward in training form
    (``model_latency_ms_train``), in `dtype`.
    """
    parts, frame = count_parameters(variant), count_frame(variant)
    every, trained = (sum(part[n] for part in parts.values()) for n in (0, 1))
    lora = parts["LoRA"][0]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.inference_mode():
        # What is trained must not depend on these random weights.
        track, pair = _seconds_of_frame(variant, device, dtype), _seconds_of_pair(variant, device, dtype)
    return {
        "model_num_param": every,
        "model_num_param_trainable": trained,
        "model_num_param_eval": every - lora,
        "model_mac_init": frame.template // 2,
        "model_mac_track": frame.track // 2,
        "model_mac_train": frame.beside // 2,
        "model_gflop": frame.track / 1e9,
        "model_latency_ms": 1e3 * track,
        "model_fps": 1.0 / track,
        "model_latency_ms_train": 1e3 * pair,
    }


def _seconds_of_frame(variant: VariantConfig, device: torch.device, dtype: torch.dtype) -> float:
    network = tracking_network(variant, dtype)
    hold_matrices_in(network, dtype)  # as a tracker does, whatever was trained
    template, mask, search, reference = made_up_crops(variant, materialise(network, device), device)
    memory = network.remember(template, mask, reference)
    return _median(lambda: network.follow(memory, search), device)


def _seconds_of_pair(variant: VariantConfig, device: torch.device, dtype: torch.dtype) -> float:
    network = materialise(empty_network(variant, dtype), device).eval()
    template, mask, search, reference = made_up_crops(variant, network, device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return _median(lambda: network.predict(template, mask, search[:, None], reference), device)


def _median(work: Callable[[], object], device: torch.device) -> float:
    warming, measured = _LOOPS.get(device.type, _LOOPS_GPU)
    return median([seconds_of(work, device) for _ in range(warming + measured)][warming:])
