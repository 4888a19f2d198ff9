"""HQ-SAM (Ke et al., 2023) and SAM 2.1 (Ravi et al., 2024) through transformers, from folders in its layout.

Nothing is fetched, nothing is unpickled, and no code of a folder is run.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from lorat.evaluate.segment.generator import Generator, check_size, pick_encoder_dtype
from lorat.evaluate.segment.settings import Size
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.storage import read_json

_TYPES = {"hq-sam": ("sam_hq",), "sam2.1": ("sam2", "sam2_video")}  # ``model_type`` of their config.json


def load_folder(family: str, path: Path, wanted: Size | None, dtype: str, device: torch.device) -> Generator:
    """Load an HQ-SAM or SAM 2.1 of a size, or of any; a `UserError` if the package is missing or the folder holds
    something else.
    """
    if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
        raise UserError(f"{path}: give a folder in transformers' layout, with config.json and model.safetensors")
    if (kind := read_json(path / "config.json").get("model_type")) not in _TYPES[family]:
        raise UserError(f"{path}: holds a model of type {kind}, not {some(_TYPES[family])}; check --segment")
    try:
        from transformers import Sam2Model, SamHQModel
        from transformers.utils import logging
    except ImportError:
        raise UserError(f"{family} needs another package; pip install 'lorat[sam2]'") from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # SAM 2.1's folders hold the parts for videos too, which are left out here.
    kinds: Any = {"hq-sam": SamHQModel, "sam2.1": Sam2Model}[family]
    how = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        model, said = kinds.from_pretrained(path, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be loaded ({error}); fetch it again") from None
    if missing := sorted(said["missing_keys"]):
        raise UserError(f"{path}: {len(missing)} tensors are missing ({some(missing)}); fetch it again")
    model.requires_grad_(False).eval().to(device)
    number, side = pick_encoder_dtype(dtype, device), model.config.prompt_encoder_config.image_size
    vision = model.config.vision_config
    if family == "hq-sam":
        check_size(path, family, Size(vision.hidden_size, vision.num_hidden_layers), wanted)
        return _hq_sam(model, side, device, number)
    backbone = vision.backbone_config
    check_size(path, family, Size(backbone.hidden_size, sum(backbone.blocks_per_stage)), wanted)
    return _sam2(model, side, device, number)


def _hq_sam(model: Any, side: int, device: torch.device, dtype: torch.dtype) -> Generator:
    model.vision_encoder.to(dtype)

    def encode(images: Tensor) -> list[tuple[Tensor, Tensor]]:
        whole, inner = model.get_image_embeddings(images)
        # The decoder looks at the first global block's output only.
        return list(zip(whole.float().split(1), inner[0].float().split(1), strict=True))

    def decode(features: tuple[Tensor, Tensor], boxes: Tensor) -> Tensor:
        whole, inner = features
        given = {"image_embeddings": whole, "intermediate_embeddings": [inner], "input_boxes": boxes[None]}
        logits: Tensor = model(**given, multimask_output=False).pred_masks
        return logits[0, :, 0]

    return Generator(side, device, dtype, encode, decode)


def _sam2(model: Any, side: int, device: torch.device, dtype: torch.dtype) -> Generator:
    # These two of the decoder's layers see features once a crop, as the encoder gives them.
    for part in (model.vision_encoder, model.mask_decoder.conv_s0, model.mask_decoder.conv_s1):
        part.to(dtype)

    def encode(images: Tensor) -> list[tuple[Tensor, ...]]:
        levels = model.get_image_embeddings(images)
        return list(zip(*(level.float().split(1) for level in levels), strict=True))

    def decode(features: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        given = {"image_embeddings": list(features), "input_boxes": boxes[None]}
        logits: Tensor = model(**given, multimask_output=False).pred_masks
        return logits[0, :, 0]

    return Generator(side, device, dtype, encode, decode)
