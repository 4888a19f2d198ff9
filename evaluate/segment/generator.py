"""What the mask networks have in common: an image encoder for crops, and a decoder that takes boxes.

Number types are the image encoder's, where nearly all of the work is. Boxes and decoder stay float32: in bfloat16 a
coordinate near 1,024 would be off by up to four pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorat.evaluate.segment.settings import SIZES, Size
from lorat.shards.base.errors import UserError
from lorat.train.network.deploy.processor import all_cores

# Of ImageNet's pixels on 0 … 255, by channel, as all of the published networks take them.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_AT_ONCE = 4  # crops on an accelerator; a CPU gains nothing, and one crop of vit_h takes gigabytes


@dataclass(frozen=True, eq=False, slots=True)
class Generator:
    """A mask network on its device."""

    side: int  # pixels a side of its crops
    device: torch.device
    dtype: torch.dtype  # of the image encoder
    encode: Callable[[Tensor], Sequence[Any]]  # (C, 3, S, S) normalised, in `dtype` → float32 features of each crop
    decode: Callable[[Any, Tensor], Tensor]  # features of a crop, (n, 4) xyxy in its pixels → (n, L, L) logits

    @property
    def at_once(self) -> int:
        """How many crops it takes together."""
        return 1 if self.device.type == "cpu" else _AT_ONCE

    def __call__(self, crops: NDArray[np.float32], boxes: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float32]]:
        """Return logits as `MaskGenerator` says; a `UserError` if memory does not hold it or a number is not finite."""
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (_MEAN, _STD))
        try:
            with all_cores(), torch.inference_mode():  # the tracker may be content with one
                images = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2)
                features = self.encode(((images - mean) / std).to(self.dtype))
                asked = [torch.from_numpy(own).to(self.device, torch.float32) for own in boxes]
                found = [self.decode(*each).float().cpu().numpy() for each in zip(features, asked, strict=True)]
        except torch.OutOfMemoryError:
            remedy = "take a smaller network, or --segment-dtype bfloat16"
            raise UserError(f"--segment: the device's memory does not hold {len(crops)} crops; {remedy}") from None
        if not all(np.isfinite(logits).all() for logits in found):
            remedy = "fetch its weights again" if self.dtype == torch.float32 else "try --segment-dtype float32"
            raise UserError(f"--segment: the network gives numbers that are not finite; {remedy}")
        return found


def pick_encoder_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number type of a name; ``auto`` is bfloat16 on CUDA devices that compute in it, else float32."""
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
        return torch.bfloat16 if fast else torch.float32
    named: torch.dtype = getattr(torch, name)
    return named


def check_size(source: Path, family: str, found: Size, wanted: Size | None) -> None:
    """Raise a `UserError` if weights are of another size than was asked for."""
    if wanted is not None and found != wanted:
        holds = next((name for name, size in SIZES[family].items() if size == found), None)
        said = f"{found.width:,} channels in {found.blocks} blocks"
        asked = next(name for name, size in SIZES[family].items() if size == wanted)
        raise UserError(f"{source}: holds {holds or said}, not {asked}; give --segment {holds or family}")
