"""Prints what a training step holds for every variant: the table of docs/profile.md.

python tools/memory_table.py [VARIANT ...]

Counted as ``lorat-train --profile --device cuda`` counts, with the recipe's 128 pairs on one GPU, on 8 and on 64.
Nothing is trained, and no GPU is needed.
"""

import sys

import torch

from lorat.configs.load import load_recipe, load_variant
from lorat.configs.schema import VariantConfig
from lorat.train.profile.count import Setting, StepCost, count_step
from lorat.train.profile.profile import GIB

VARIANTS = (
    "S-168",
    *(f"{size}-{side}" for size in "SBLg" for side in (224, 378)),
    *(f"timm-dinov2-{size}-{side}" for size in "SBLg" for side in (224, 378)),
    *("clip-B-256", "clip-L-224", "clip-L-336", "clip-H-224", "clip-H-378"),
    *("mae-B-256", "mae-B-384", "mae-B-432", "mae-L-256", "mae-L-384", "mae-H-224"),
    *("eva02-B-224", "eva02-L-224"),
    *(f"dinov3-{size}-{side}" for size in "SBL" for side in (256, 384)),
    *(f"spmtrack-{size}-{side}" for size in "BLg" for side in (224, 378)),
    *(f"loratv2-p{phase}-{size}-{side}" for size in "BL" for phase, side in ((1, 224), (2, 378))),
    *("toy", "demo", "spmtrack-toy", "loratv2-toy"),
)
HEADER = (
    "| variant | weights | gradients | AdamW | 128: kept | most | less: kept | most "
    "| 16: kept | most | less: kept | most | 2: most |"
)


def row(name: str) -> str:
    """Return a variant's line of the table, all in GiB."""
    variant = load_variant(name)
    costs = {(gpus, less): step_cost(variant, gpus, less) for gpus in (1, 8) for less in (False, True)}
    fixed = costs[1, False]
    held = [fixed.weights, fixed.gradients, fixed.optimiser]
    for cost in costs.values():
        held += [cost.activations, cost.peak]
    held.append(step_cost(variant, 64, False).peak)
    return f"| {name} | " + " | ".join(map(in_gib, held)) + " |"


def step_cost(variant: VariantConfig, gpus: int, less: bool) -> StepCost:
    """Count the step of one of so many GPUs, with activations checkpointed or not."""
    train = load_recipe("standard").train
    share = {"batch_size": train.batch_size // gpus, "checkpoint_activations": less}
    train = train.model_copy(update=share)
    return count_step(Setting(variant, train, torch.device("cuda"), torch.bfloat16))


def in_gib(size: int) -> str:
    """Return bytes in GiB, in about three digits."""
    value = size / GIB
    decimals = 3 if value < 0.00995 else 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"


if __name__ == "__main__":
    print(HEADER)
    print("|---|" + "---:|" * HEADER.count(" | "))
    for variant_name in sys.argv[1:] or VARIANTS:
        print(row(variant_name), flush=True)
