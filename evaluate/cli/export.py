"""``lorat-eval export-weights``: weights in another form, for other programs or machines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from lorat.configs.load import load_variant
from lorat.evaluate.cli.options import weights_options
from lorat.evaluate.track.runs import chosen_weights
from lorat.prep.commandline import Command
from lorat.shards.base.console import OUT, start_logging
from lorat.shards.base.errors import UserError

__all__ = ["export_command"]

_FILE = click.Path(path_type=Path, dir_okay=False)
_ENDING = {
    "merged": "-merged.safetensors",
    "published": "-published.safetensors",
    "onnx": ".onnx",
    "torch-export": ".pt2",
}
"""Form → end of the file's name where --out is not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line, as click parsed it."""

    form: str | None
    run: Path | None
    weights: Path | None
    variant: str | None
    backbone: Path | None
    force_backbone: bool
    out: Path | None
    dtype: str | None
    scalars: bool | None
    overwrite: bool


@click.command("export-weights", cls=Command)
@click.option(
    "--merged",
    "form",
    flag_value="merged",
    help="The whole network, LoRA merged into the backbone: a file that needs no other.",
)
@click.option(
    "--published",
    "form",
    flag_value="published",
    help="What was trained, under the names of LoRAT's published files.",
)
@click.option(
    "--onnx",
    "form",
    flag_value="onnx",
    help="The merged network as two ONNX graphs: one for the template, one for each frame.",
)
@click.option(
    "--torch-export",
    "form",
    flag_value="torch-export",
    help="The same two graphs for torch.export.load.",
)
@weights_options
@click.option(
    "--out",
    type=_FILE,
    help="File to write: .safetensors, .bin (the same inside), .pth or .pt; .onnx or .pt2 for "
    "graphs.  [default: <run>/export/<checkpoint>-<form>.safetensors, or beside the weights]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Number type of the matrices of --merged.  [default: float32]",
)
@click.option(
    "--scalars/--no-scalars",
    default=None,
    help="Whether --published writes lora_alpha and use_rslora, as older files have them.  "
    "[default: --scalars]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
def export_command(**values: Any) -> None:
    """Write weights in another form.

    \b
    lorat-eval export-weights --merged --run runs/B-224-standard
    lorat-eval export-weights --published --weights model.safetensors --out lorat_b224.bin
    lorat-eval export-weights --onnx --out lorat.onnx

    Exit status 2 when an input is missing or does not fit.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    options = Options(**values)
    _check(options)
    weights = chosen_weights(options.run, options.weights)
    out = options.out or _default_out(weights, str(options.form))
    graphs = options.form in ("onnx", "torch-export")
    export, what = (_export_graphs, "graph") if graphs else (_export_weights, "weights")
    for file in export(options, weights, out):
        size = file.stat().st_size / 1e6
        OUT.print(f"{what}: {file} ({size:.1f} MB)", highlight=False, soft_wrap=True)


def _check(options: Options) -> None:
    if options.form is None:
        raise UserError(
            "export-weights: say what to write: --merged, --published, --onnx or --torch-export"
        )
    given = {
        "--dtype": options.dtype is not None and options.form != "merged",
        "--scalars": options.scalars is not None and options.form != "published",
        "--backbone": options.backbone is not None and options.form == "published",
    }
    odd = [name for name, is_odd in given.items() if is_odd]
    if odd:
        raise UserError(f"{odd[0]}: has no meaning for --{options.form}; leave it out")


def _default_out(weights: Path, form: str) -> Path:
    """Return a place that deleting old checkpoints does not touch."""
    checkpoint = weights.parent
    if checkpoint.parent.name == "checkpoints":
        folder, stem = checkpoint.parent.parent / "export", checkpoint.name
    else:
        folder, stem = weights.parent, weights.stem
    return folder / f"{stem}{_ENDING[form]}"


def _export_weights(options: Options, weights: Path, out: Path) -> list[Path]:
    # torch and timm take seconds to import: help and mistakes need not wait for them.
    import torch

    from lorat.train.network.export import export_merged, export_published
    from lorat.train.network.reading import read_weights
    from lorat.train.network.weights.containers import check_writable

    check_writable(out, options.overwrite)
    variant = load_variant(options.variant) if options.variant is not None else None
    file = read_weights(weights, variant, force_backbone=options.force_backbone)
    if options.form == "merged":
        export_merged(
            file,
            out,
            getattr(torch, options.dtype or "float32"),
            backbone=options.backbone,
            force_backbone=options.force_backbone,
        )
    else:
        export_published(file, out, scalars=options.scalars is not False)
    return [out]


def _export_graphs(options: Options, weights: Path, out: Path) -> list[Path]:
    from lorat.train.network.deploy.merged import check_target, export_onnx, export_torch
    from lorat.train.network.trained import load_network

    form = str(options.form)
    check_target(out, _ENDING[form], overwrite=options.overwrite)
    network, variant = load_network(
        weights,
        backbone=options.backbone,
        variant=load_variant(options.variant) if options.variant is not None else None,
        force_backbone=options.force_backbone,
    )
    return (export_onnx if form == "onnx" else export_torch)(out, network, variant)
