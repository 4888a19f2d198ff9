"""Mask networks of the published kinds, made small by the packages' own constructors, and one that needs no network."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

SIDE, PATCH, WIDTH = 128, 16, 32


def tiny_sam(seed: int = 0) -> nn.Module:
    """The package's own network, 128 pixels a side, with windows of 4 patches and a global block."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(seed)
    grid = SIDE // PATCH
    encoder = ImageEncoderViT(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=48,
        depth=3,
        num_heads=3,
        mlp_ratio=2,
        out_chans=WIDTH,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    two_way = TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=8, mlp_dim=64)
    decoder = MaskDecoder(transformer_dim=WIDTH, transformer=two_way, iou_head_depth=3, iou_head_hidden_dim=40)
    sam = Sam(encoder, PromptEncoder(WIDTH, (grid, grid), (SIDE, SIDE), 8), decoder)
    with torch.no_grad():
        for name, tensor in sam.named_parameters():
            if "pos" in name:  # zeros when built: a swap would not be noticed
                tensor.normal_(0.0, 0.2)
    return sam.eval()


def save_tiny_sam(path: Path) -> Path:
    torch.save(tiny_sam().state_dict(), path)
    return path


class Ellipses:
    """Logits above 0 in the ellipse that a box holds, with what it was asked for."""

    side, at_once, cells = 128, 3, 32

    def __init__(self) -> None:
        self.calls: list[list[np.ndarray]] = []

    def __call__(self, crops, boxes):
        assert crops.shape == (len(boxes), self.side, self.side, 3) and crops.dtype == np.float32
        self.calls.append([own.copy() for own in boxes])
        return [np.stack([self.logits(box) for box in own]) for own in boxes]

    def logits(self, box: np.ndarray) -> np.ndarray:
        x1, y1, x2, y2 = box
        y, x = (np.mgrid[: self.cells, : self.cells] + 0.5) * (self.side / self.cells)
        away = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2
        return (4.0 * (1.0 - away)).astype(np.float32)


def save_tiny_hq_sam(folder: Path) -> Path:
    from transformers import SamHQConfig, SamHQModel, SamHQVisionConfig
    from transformers.models.sam_hq import SamHQMaskDecoderConfig, SamHQPromptEncoderConfig

    config = SamHQConfig(
        vision_config=SamHQVisionConfig(
            hidden_size=48,
            output_channels=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=3,
            image_size=SIDE,
            window_size=3,
            global_attn_indexes=[1],
            num_pos_feats=WIDTH // 2,
            mlp_dim=96,
            initializer_range=0.02,
        ),
        prompt_encoder_config=SamHQPromptEncoderConfig(hidden_size=WIDTH, image_size=SIDE, mask_input_channels=8),
        mask_decoder_config=SamHQMaskDecoderConfig(hidden_size=WIDTH, mlp_dim=64, iou_head_hidden_dim=40, vit_dim=48),
    )
    torch.manual_seed(1)
    SamHQModel(config).save_pretrained(folder)
    return folder


def save_tiny_sam2(folder: Path) -> Path:
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        window_size_per_stage=[4, 2, 4, 2],
        global_attention_blocks=[3],
    )
    config = Sam2Config(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[128, 64, 32, 16],
            backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
            fpn_hidden_size=WIDTH,
        ),
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=WIDTH, image_size=SIDE, mask_input_channels=8),
        mask_decoder_config=Sam2MaskDecoderConfig(hidden_size=WIDTH, mlp_dim=64, iou_head_hidden_dim=40),
    )
    torch.manual_seed(2)
    Sam2Model(config).save_pretrained(folder)
    return folder
