"""The tiny published network, its inputs and its training step, for tests and for the benchmark on a GPU."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.train.network.blocks.lorat import LoRAT, Prediction
from lorat.train.network.trained import load_weights
from lorat.train.network.variants import assemble
from lorat.train.network.weights.published import published_tensors
from lorat.train.step.loss import Losses, tracking_loss

SMALL = Path(__file__).parents[2] / "golden"
STATE = SMALL / "g4_tiny_lorat_224_lora_state.safetensors"
"""Frozen, LoRA and head tensors, and the LoRA scalars."""

Arrays = Mapping[str, NDArray[np.generic]]


def variant(size: int = 224, gated: bool = False, **lora: float) -> VariantConfig:
    """The variant of the golden arrays, of crops of `size`; a gated one has SwiGLU."""
    args = {"embed_dim": 64, "depth": 3, "num_heads": 4} | ({"mlp_ratio": 5.5} if gated else {})
    kind = "giant" if gated else "small"
    return VariantConfig(
        name=f"tiny-{size}",
        backbone=BackboneConfig(timm=f"vit_{kind}_patch14_dinov2.lvd142m", args=args),
        lora=LoraConfig(**({"rank": 8, "alpha": 16.0} | lora)),
        template_size={224: 112, 378: 196}[size],
        search_size=size,
    )


def network_of(variant: VariantConfig) -> LoRAT:
    """The published network in training form."""
    network = assemble(variant, None)
    load_weights(STATE, network)
    return network


def arrays() -> dict[str, NDArray[np.generic]]:
    """Inputs, outputs and labels at 224."""
    return dict(np.load(SMALL / "g4_model_io_224.npz"))


def inputs(arrays: Arrays) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised template and search crops, and the template's mask."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    template, search = ((torch.from_numpy(np.asarray(arrays[k])).float() / 255 - mean) / std for k in ("z_u8", "x_u8"))
    return template, search, torch.from_numpy(np.asarray(arrays["z_feat_mask"]))


def losses_of(prediction: Prediction, arrays: Arrays) -> Losses:
    """The losses of a prediction for the golden labels, where it is."""
    device, grid = prediction.boxes.device, prediction.score_map.shape[-1]
    positive = torch.zeros(2, grid * grid, dtype=torch.bool)
    positive[torch.from_numpy(arrays["pos_batch"]), torch.from_numpy(arrays["pos_map"])] = True
    positive = positive.view(2, grid, grid).to(device)
    return tracking_loss(prediction, positive, torch.from_numpy(arrays["gt_boxes"]).to(device), positive.sum())


def published_gradients(network: LoRAT) -> dict[str, Tensor]:
    """Gradients under published names: live tensors stand in for the parameters' values."""
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.data = parameter.grad
    return published_tensors(network)[0]
