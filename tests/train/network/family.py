"""The tiny published networks of SPMTrack and LoRATv2, and their inputs."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.train.network.blocks.lorat import OneStream, Prediction
from lorat.train.network.trained import load_weights
from lorat.train.network.variants import assemble, build_network
from lorat.train.step.loss import Losses, tracking_loss

Arrays = dict[str, NDArray[np.generic]]
SIZES = {"embed_dim": 64, "depth": 3, "num_heads": 2}


def spmtrack(gated: bool = False, **lora: float | str) -> VariantConfig:
    """SPMTrack's variant of the golden arrays."""
    args = SIZES | ({"depth": 1, "mlp_ratio": 5.5} if gated else {})
    return VariantConfig(
        name="spmtrack-tiny",
        method="spmtrack",
        backbone=BackboneConfig(timm=f"vit_{'giant' if gated else 'small'}_patch14_dinov2.lvd142m", args=args),
        lora=LoraConfig(**({"rank": 8, "alpha": 16.0, "experts": 4} | lora)),
        template_size=84,
        search_size=126,
        search_factor=5.0,
        templates=3,
        searches=2,
    )


def loratv2(phase: int, **lora: float) -> VariantConfig:
    """LoRATv2's variant of the golden arrays."""
    return VariantConfig(
        name=f"loratv2-p{phase}-tiny",
        method="loratv2",
        backbone=BackboneConfig(
            timm="vit_small_patch14_reg4_dinov2.lvd142m",
            layout="timm",
            prefix_tokens="registers",
            args=SIZES | {"img_size": 224},
        ),
        lora=LoraConfig(**({"rank": 8, "alpha": 8.0} | lora)),
        template_size=84,
        search_size=84 if phase == 1 else 140,
        reference_size=None if phase == 1 else 84,
        token_type_std=1e-6,
    )


def published_spmtrack(folder: Path, variant: VariantConfig, name: str = "g11_spmtrack_state") -> OneStream:
    """SPMTrack as published, in training form."""
    network = assemble(variant, None)
    load_weights(folder / f"{name}.safetensors", network)
    return network.train()


def both_phases(folder: Path, out: Path) -> Path:
    """Write both phases of LoRATv2 as one file, the form of our checkpoints."""
    first, second = (load_file(folder / f"g12_loratv2_p{phase}_file.safetensors") for phase in (1, 2))
    save_file(first | second, out)
    return out


def phase_file(folder: Path, phase: int, out: Path) -> Path:
    """The weights of a phase of LoRATv2, all that stand on the backbone."""
    first = folder / "g12_loratv2_p1_file.safetensors"
    return first if phase == 1 else both_phases(folder, out / "both.safetensors")


def published_loratv2(folder: Path, phase: int, out: Path) -> OneStream:
    """LoRATv2 as published, in training form."""
    network = build_network(loratv2(phase), backbone=folder / "g12_loratv2_backbone.safetensors")
    load_weights(phase_file(folder, phase, out), network)
    return network.train()


def image(array: NDArray[np.generic]) -> Tensor:
    """Normalised crops (…, 3, H, W) of uint8 ones."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(array).float() / 255 - mean) / std


def spmtrack_inputs(arrays: Arrays) -> tuple[Tensor, Tensor, Tensor]:
    """Templates (B, 3, 3, h, w), masks and two search crops, as `OneStream.predict` takes them."""
    templates, masks = zip(*((image(arrays[f"z_{i}_u8"]), arrays[f"z_{i}_feat_mask"]) for i in range(3)), strict=True)
    searches = torch.stack([image(arrays[f"x_{i}_u8"]) for i in range(2)], 1)
    return torch.stack(templates, 1), torch.from_numpy(np.stack(masks, 1)), searches


def loratv2_inputs(arrays: Arrays, phase: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Template, mask, search crop and reference, as `OneStream.predict` takes them."""
    reference = image(arrays["x_0_u8"]) if phase == 2 else None
    mask = torch.from_numpy(arrays["z_feat_mask"])[:, None]
    return image(arrays["z_u8"])[:, None], mask, image(arrays[f"x_{phase - 1}_u8"])[:, None], reference


def losses_of(prediction: Prediction, arrays: Arrays, suffix: str = "", rows: int = 2) -> Losses:
    """The losses of a prediction for the labels of a frame."""
    grid = prediction.score_map.shape[-1]
    positive = torch.zeros(2, grid * grid, dtype=torch.bool)
    positive[torch.from_numpy(arrays[f"pos_batch{suffix}"]), torch.from_numpy(arrays[f"pos_map{suffix}"])] = True
    positive, box = positive.view(2, grid, grid)[:rows], torch.from_numpy(arrays[f"gt_boxes{suffix}"])[:rows]
    return tracking_loss(prediction, positive, box, positive.sum())


def assert_near(found: Tensor, wanted: NDArray[np.generic]) -> None:
    """Compare to float32 rounding: 1e-5 of the largest value."""
    scale = max(1.0, float(np.nanmax(np.abs(wanted))))
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=1e-5 * scale)


def assert_same(prediction: Prediction, arrays: Arrays, suffix: str = "", prefix: str = "") -> None:
    """Compare scores and boxes."""
    assert_near(prediction.score_map, arrays[f"{prefix}score_map{suffix}"])
    assert_near(prediction.boxes, arrays[f"{prefix}boxes{suffix}"])


def assert_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Compare gradients under published names, each to 1e-4 of its norm."""
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, name
