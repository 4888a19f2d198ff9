"""SAM (Kirillov et al., 2023) through the package segment-anything, from the files that its authors publish.

A file's tensors tell the network's sizes, so that vit_b, vit_l and vit_h need no table. What they do not tell is the
same in all: eight heads in the decoder.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lorat.evaluate.segment.generator import Generator, check_size, pick_encoder_dtype
from lorat.evaluate.segment.settings import Size
from lorat.shards.base.errors import UserError
from lorat.train.network.weights.containers import check_tensors, read_tensors

_DECODER_HEADS = 8
_POSITIONS, _ENCODER, _TWO_WAY = "image_encoder.pos_embed", "image_encoder.blocks.", "mask_decoder.transformer.layers."
_TOKENS, _QUALITY = "mask_decoder.mask_tokens.weight", "mask_decoder.iou_prediction_head.layers."
_MASK_IN = "prompt_encoder.mask_downscaling.3.weight"


def load_sam(path: Path, wanted: Size | None, dtype: str, device: torch.device) -> Generator:
    """Load a SAM of a size, or of any; a `UserError` if the package is missing or the file holds something else."""
    if find_spec("segment_anything") is None:
        raise UserError("SAM needs another package; pip install 'lorat[sam]'")
    if path.is_dir():
        raise UserError(f"{path}: a folder; give SAM's own .pth (sam_vit_h_4b8939.pth), or --segment hq-sam or sam2.1")
    tensors, _ = read_tensors(path)
    if "mask_decoder.hf_token.weight" in tensors:
        raise UserError(f"{path}: HQ-SAM's own file; give --segment hq-sam and a folder in transformers' layout")
    try:
        parts = build_sam(tensors)
    except (KeyError, IndexError):
        raise UserError(f"{path}: no SAM's weights; give the .pth that its authors publish") from None
    image_encoder, prompt_encoder, mask_decoder = cast("Iterable[Any]", parts.values())
    check_size(path, "sam", Size(tensors[_POSITIONS].shape[-1], len(image_encoder.blocks)), wanted)
    check_tensors(path, tensors, parts.state_dict())
    parts.load_state_dict(tensors, assign=True)
    parts.requires_grad_(False).eval().to(device, torch.float32)
    number = pick_encoder_dtype(dtype, device)
    image_encoder.to(number)

    def encode(images: Tensor) -> list[Tensor]:
        return list(image_encoder(images).float().split(1))

    def decode(features: Tensor, boxes: Tensor) -> Tensor:
        sparse, dense = prompt_encoder(points=None, boxes=boxes, masks=None)
        logits, _ = mask_decoder(
            image_embeddings=features,
            image_pe=prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return logits[:, 0]

    return Generator(image_encoder.img_size, device, number, encode, decode)


def build_sam(tensors: Mapping[str, Tensor]) -> nn.ModuleDict:
    """Return image encoder, prompt encoder and mask decoder of the sizes that a SAM's tensors have, without memory of
    their own, on the device ``meta``; a `KeyError` or `IndexError` if they are not a SAM's.
    """
    from segment_anything import modeling

    encoder = _encoder(tensors)
    tokens, width = tensors[_TOKENS].shape
    side, grid = encoder["img_size"], encoder["img_size"] // encoder["patch_size"]
    with torch.device("meta"):
        two_way = modeling.TwoWayTransformer(
            depth=_count(tensors, _TWO_WAY),
            embedding_dim=width,
            num_heads=_DECODER_HEADS,
            mlp_dim=tensors[f"{_TWO_WAY}0.mlp.lin1.weight"].shape[0],
        )
        decoder = modeling.MaskDecoder(
            transformer_dim=width,
            transformer=two_way,
            num_multimask_outputs=tokens - 1,
            iou_head_depth=_count(tensors, _QUALITY),
            iou_head_hidden_dim=tensors[f"{_QUALITY}0.weight"].shape[0],
        )
        prompts = modeling.PromptEncoder(width, (grid, grid), (side, side), tensors[_MASK_IN].shape[0])
        whole = modeling.ImageEncoderViT(**encoder)
    return nn.ModuleDict({"image_encoder": whole, "prompt_encoder": prompts, "mask_decoder": decoder})


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many numbered modules there are under a name."""
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def _encoder(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return how to build the image encoder."""
    _, grid, _, width = tensors[_POSITIONS].shape
    patch, depth = tensors["image_encoder.patch_embed.proj.weight"].shape[-1], _count(tensors, _ENCODER)
    # A row a distance, from -(n - 1) to n - 1 patches in a window of n; a column a channel of a head.
    distances = [tensors[f"{_ENCODER}{block}.attn.rel_pos_h"].shape for block in range(depth)]
    windows = [(rows + 1) // 2 for rows, _ in distances]
    return {
        "img_size": grid * patch,
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": width // distances[0][1],
        "mlp_ratio": tensors[f"{_ENCODER}0.mlp.lin1.weight"].shape[0] / width,
        "out_chans": tensors["image_encoder.neck.0.weight"].shape[0],
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        "use_rel_pos": True,
        "window_size": min(windows),
        "global_attn_indexes": tuple(block for block, window in enumerate(windows) if window == grid),
    }
