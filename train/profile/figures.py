"""What a network costs in a few numbers, under the names that the published trainer gives them on wandb."""

from collections.abc import Iterator
from statistics import median

import torch

from lorat.configs.schema import VariantConfig
from lorat.train.profile.count import count_frame, count_parameters, empty_network, materialise
from lorat.train.profile.measure import seconds_of

_LOOPS = {"cpu": (1, 5)}  # to warm up, and measured
_LOOPS_GPU = (10, 100)


def network_figures(variant: VariantConfig, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return what `variant` costs: parameters as trained (``model_num_param``, ``…_trainable``) and with LoRA merged
    (``…_eval``), multiply-adds of a template and of a tracked frame (``model_mac_init``, ``model_mac_track``), the
    same as ``model_gflop`` a frame, and the median time of one frame alone on `device` (``model_latency_ms``,
    ``model_fps``), matrices in `dtype`.
    """
    parts, frame = count_parameters(variant), count_frame(variant)
    every, trained = (sum(part[n] for part in parts.values()) for n in (0, 1))
    seconds = median(_frames(variant, device, dtype))
    return {
        "model_num_param": every,
        "model_num_param_trainable": trained,
        "model_num_param_eval": every - parts["LoRA"][0],
        "model_mac_init": frame.template // 2,
        "model_mac_track": frame.track // 2,
        "model_gflop": frame.track / 1e9,
        "model_latency_ms": 1e3 * seconds,
        "model_fps": 1.0 / seconds,
    }


def _frames(variant: VariantConfig, device: torch.device, dtype: torch.dtype) -> Iterator[float]:
    """Yield the seconds of frames on a network of random weights, LoRA merged."""
    plain = variant.model_copy(update={"lora": None})
    drawn = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=drawn), torch.inference_mode():  # what is trained must not depend on this
        network = materialise(empty_network(plain, dtype), device).eval()
        grid, side = network.template_grid, variant.template_size
        template = network.embed_template(
            torch.zeros(1, 3, side, side, device=device), torch.ones(1, grid, grid, dtype=torch.bool, device=device)
        )
        search = torch.zeros(1, 3, variant.search_size, variant.search_size, device=device)
        warming, measured = _LOOPS.get(device.type, _LOOPS_GPU)
        for number in range(warming + measured):
            seconds = seconds_of(lambda: network.track(template, search), device)
            if number >= warming:
                yield seconds
