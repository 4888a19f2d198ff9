"""Weight files for others: in the published names, or one file that needs no backbone.

Both keep the variant in their metadata, so they load here without more words.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from lorat.train.network.reading import WeightsFile
from lorat.train.network.trained import metadata_of, network_of
from lorat.train.network.variants import hold_matrices_in
from lorat.train.network.weights.containers import write_tensors
from lorat.train.network.weights.published import Scales, pairs_of, published_tensors, to_file

_LOG = logging.getLogger("lorat")


def export_merged(
    file: WeightsFile,
    out: Path,
    dtype: torch.dtype,
    *,
    backbone: Path | None = None,
    force_backbone: bool = False,
) -> None:
    """Write the whole network with LoRA merged (in float32, then cast), as published files name it.

    Args:
        file: what to export.
        out: ``.safetensors`` or ``.bin`` for safetensors, ``.pth`` or ``.pt`` for PyTorch's format.
        dtype: number type of the matrices; norms, scales and tables stay float32.
        backbone: the backbone's file, as for `load_network`.
        force_backbone: take another backbone than the one that the file was trained on.

    Raises:
        UserError: if the backbone cannot be had or is another one.
    """
    network = network_of(file, backbone, force_backbone=force_backbone)
    hold_matrices_in(network, dtype)
    tensors, _ = published_tensors(network)
    number_type = str(dtype).removeprefix("torch.")
    metadata = metadata_of(file.variant, network.fingerprint)
    metadata |= {"merged": "true", "dtype": number_type}
    write_tensors(out, to_file(tensors, file.variant.backbone.layout), metadata)


def export_published(file: WeightsFile, out: Path, *, scalars: bool = True) -> None:
    """Write what the file holds under the published names; values and number types are kept.

    Args:
        file: what to export.
        out: ``.safetensors`` or ``.bin`` for safetensors, ``.pth`` or ``.pt`` for PyTorch's format.
        scalars: with the scale of the pairs, as older published files have it. Without, readers
            take the scale that they are configured for, or 1.
    """
    tensors = file.trained | file.frozen
    pairs = pairs_of(file.trained)
    if scalars:
        tensors |= _own_scales(file.scales)
    named = to_file(tensors, file.variant.backbone.layout)
    lora = file.variant.lora
    if pairs and scalars and lora is not None:
        named["lora_alpha"] = _alpha(lora.alpha)
        named["use_rslora"] = torch.tensor(lora.rslora)
    scales = sorted({file.scale(layer) for layer in pairs} - {1.0})
    if scales and not scalars:
        _LOG.warning(
            "%s: its pairs have the scale %g; readers of files without scalars may take 1",
            out,
            scales[0],
        )
    metadata = metadata_of(file.variant, file.metadata.get("backbone_fingerprint", ""))
    write_tensors(out, named, metadata)


def _own_scales(scales: Scales) -> dict[str, Tensor]:
    """Return the scalars of layers that have their own."""
    alphas = {f"{n}.lora.alpha": _alpha(value) for n, value in scales.alpha.items() if n}
    kinds = {f"{n}.lora.use_rslora": torch.tensor(v) for n, v in scales.rslora.items() if n}
    return alphas | kinds


def _alpha(value: float) -> Tensor:
    """Return a 0-dim tensor: int64 for a whole number, else float32, as published."""
    return torch.tensor(int(value) if value == int(value) else value)
