"""What a training takes from its command line as it is. Imports nothing heavy: the command's help needs it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorat.shards.base.options import option


@dataclass(frozen=True, kw_only=True, slots=True)
class StartOptions:
    """How a training is started and told of; none of it is part of a recipe."""

    backbone: Path | None = option(
        None, help="Pretrained weights.", shown="$LORAT_BACKBONES, then timm's hub", section="What is trained"
    )
    force_backbone: bool = option(
        False, help="Start or go on from weights that were trained on another backbone.", section="What is trained"
    )
    resume: Literal["auto"] | None = option(None, help="Go on from the newest checkpoint, if any.")
    no_log_files: bool = option(False, help="Keep no copy of what each process prints, log-rank-0.txt and so on.")
    device: str = option("auto", help="auto, cpu, cuda or mps.")
    wandb: Literal["online", "offline", "off"] = option(
        "off", help="Log to wandb.ai too, or to files for wandb sync; online without a key is offline."
    )
