"""``lorat-prep doctor``: what this machine has and what that means.

As a command it stands at the edge, and asks the training's own rules for device and number type.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from lorat.prep import doctor
from lorat.prep.commandline import Command, LocationType
from lorat.prep.doctor import Finding
from lorat.shards.base.console import OUT
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import Location

__all__ = ["doctor_command"]

_BACKBONES = "LORAT_BACKBONES"
_CARD = Path("/dev/nvidia0")


@click.command("doctor", cls=Command)
@click.argument("folder", type=LocationType(), default=Path("data/shards"))
def doctor_command(folder: Location) -> None:
    """Tell what this machine has and what that means for builds and trainings.

    The disk of FOLDER (data/shards) is measured with a file of 64 MB. What is missing comes with
    its remedy, marked with '!'. Exit status 0 whatever is found.
    """
    if not isinstance(folder, Path):
        raise UserError(f"{folder}: is in a store; name a local folder, whose disk is measured")
    findings = [
        doctor.software(importlib.metadata.version("lorat")),
        doctor.cores(),
        doctor.memory(),
        doctor.codec(),
        doctor.zstd(),
        doctor.disk(folder),
        *doctor.files_and_shared_memory(),
        *_compute(),
        _backbones(),
        *doctor.extras(),
    ]
    OUT.print(_table(findings))


def _compute() -> Sequence[Finding]:
    """Return what trainings compute with; torch is imported here, since it takes seconds."""
    try:
        import torch

        from lorat.train.network.deploy.devices import pick_device, pick_dtype
    except (ImportError, OSError) as error:
        remedy = "install it as pytorch.org says for this machine"
        return [Finding("torch", f"does not import ({error})", "no training here", remedy)]
    device = pick_device("auto")
    number_type = str(pick_dtype("auto", device, training=True)).removeprefix("torch.")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    threads = f"{torch.get_num_threads()} threads"
    version = Finding("torch", f"{torch.__version__}, {build}, {threads}", f"trains on {device}")
    if device.type == "cuda":
        return [version, *_cards(number_type)]
    slow = "float32; only processors with AMX or AVX512-BF16 are faster in bfloat16"
    kind = "bfloat16, which this processor is fast at" if number_type == "bfloat16" else slow
    seen = _CARD.exists() or shutil.which("nvidia-smi") is not None
    remedy = ""
    if seen:
        remedy = "an NVIDIA card is here; install a torch that sees it (pytorch.org), or its driver"
    means = "enough for the toy and still recipes; the standard recipe wants a GPU"
    return [version, Finding("numbers", kind, ""), Finding("GPU", "none", means, remedy)]


def _cards(number_type: str) -> list[Finding]:
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        text = f"{card.name}, {card.total_memory / 1e9:.0f} GB"
        found.append(Finding(f"GPU {index}", text, f"trains in {number_type}"))
    return found


def _backbones() -> Finding:
    folder = os.environ.get(_BACKBONES)
    if not folder:
        means = "pretrained weights come from timm's hub, over the network, or from --backbone FILE"
        return Finding("backbones", f"{_BACKBONES} is not set", means)
    if not Path(folder).is_dir():
        remedy = f"set {_BACKBONES} to the folder that holds <timm name>.safetensors"
        return Finding("backbones", f"{folder}: no such folder", "", remedy)
    files = sorted(p.name for p in Path(folder).iterdir() if p.suffix in (".safetensors", ".pth"))
    return Finding("backbones", f"{len(files)} files in {folder}", ", ".join(files))


def _table(findings: Sequence[Finding]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for finding in findings:
        lines = [Text(finding.found)]
        if finding.means:
            lines.append(Text(f"→ {finding.means}", style="dim"))
        if finding.remedy:
            lines.append(Text(f"! {finding.remedy}", style="yellow"))
        table.add_row(finding.name, Text("\n").join(lines))
    return table
