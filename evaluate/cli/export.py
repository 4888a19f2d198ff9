"""``lorat-eval export-weights``: weights in another form, for other programs or machines."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from lorat.evaluate.track.settings import WeightsSettings
from lorat.prep.commandline import Command, options_of
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import option

_FORMS = {
    "merged": "The whole network, LoRA merged into the backbone: a file that needs no other.",
    "published": "What was trained, under the names of LoRAT's published files.",
    "onnx": "The merged network as two ONNX graphs: one for the template, one for each frame.",
    "torch-export": "The same two graphs for torch.export.load.",
}
_GRAPHS = {"onnx": ".onnx", "torch-export": ".pt2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """The file to write."""

    out: Path | None = option(
        None,
        kind="file",
        help="File to write: .safetensors, .bin (the same inside), .pth or .pt; .onnx or .pt2 for "
        "graphs.  [default: <run>/export/<checkpoint>-<form>.safetensors, or beside the weights]",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = option(
        None, help="Number type of the matrices of --merged.  [default: float32]"
    )
    scalars: bool | None = option(
        None,
        names=("--scalars/--no-scalars",),
        help="Whether --published writes lora_alpha and use_rslora, as older files have them.  [default: --scalars]",
    )
    opset: int | None = option(
        None, least=16, most=20, help="Set of operators of --onnx: an older one for older runtimes.  [default: 20]"
    )
    overwrite: bool = option(False, help="Replace the file if it is there.")


def _form_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for form, text in reversed(_FORMS.items()):
        command = click.option(f"--{form}", "form", flag_value=form, help=text)(command)
    return command


@click.command("export-weights", cls=Command)
@_form_options
@options_of(WeightsSettings, "settings", "Weights")
@options_of(ExportOptions, "options", "Output")
def export_weights_command(form: str | None, settings: WeightsSettings, options: ExportOptions) -> None:
    """Write weights in another form.

    \b
    lorat-eval export-weights --merged --run runs/B-224-standard
    lorat-eval export-weights --published --weights model.safetensors --out lorat_b224.bin
    lorat-eval export-weights --onnx --out lorat.onnx

    Exit status 2 when an input is missing or does not fit.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    if form is None:
        raise UserError("export-weights: say what to write: --merged, --published, --onnx or --torch-export")
    for name, given, meant in (
        ("dtype", options.dtype, form == "merged"),
        ("scalars", options.scalars, form == "published"),
        ("backbone", settings.backbone, form != "published"),
        ("opset", options.opset, form == "onnx"),
    ):
        if given is not None and not meant:
            raise UserError(f"--{name}: has no meaning for --{form}; leave it out")
    weights, force = settings.file(), settings.force_backbone
    out = options.out or _default_out(weights, _GRAPHS.get(form, f"-{form}.safetensors"))
    # torch and timm take seconds to import: help and mistakes need not wait for them.
    if form in _GRAPHS:
        from lorat.train.network.deploy.graphs import check_target, export_graphs
        from lorat.train.network.deploy.operators import NEWEST

        check_target(out, _GRAPHS[form], overwrite=options.overwrite)
        what, files = "graph", export_graphs(out, *settings.load_network(), options.opset or NEWEST)
    else:
        import torch

        from lorat.train.network.reading import read_weights
        from lorat.train.network.trained import export_merged, export_published
        from lorat.train.network.weights.containers import check_writable

        check_writable(out, options.overwrite)
        *before, last = settings.files()
        file = read_weights(last, settings.variant_config(), before=before, force_backbone=force)
        if form == "published":
            export_published(file, out, scalars=options.scalars is not False)
        else:
            dtype = getattr(torch, options.dtype or "float32")
            export_merged(file, out, dtype, backbone=settings.backbone, force_backbone=force)
        what, files = "weights", [out]
    for path in files:
        say(f"{what}: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _default_out(weights: Path, ending: str) -> Path:
    """Return a place that deleting old checkpoints does not touch."""
    if weights.parent.parent.name == "checkpoints":
        return weights.parents[2] / "export" / f"{weights.parent.name}{ending}"
    return weights.with_name(f"{weights.stem}{ending}")
