"""``lorat-eval export-weights``: weights in another form, for other programs or machines."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, Literal

import click

from lorat.evaluate.track.settings import WeightsSettings
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.console import progress_bar, say, start_logging
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.options import option

_FORMS = {
    "merged": "The whole network, LoRA merged into the backbone: a file that needs no other. SPMTrack's experts, which "
    "cannot be merged, stand beside the weights.",
    "published": "What was trained, under the names of LoRAT's published files.",
    "onnx": "The merged network as two ONNX graphs: one for the template, one for each frame.",
    "openvino": "The same two graphs for OpenVINO.",
    "torch-export": "The same two graphs for torch.export.load.",
}
_GRAPHS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """The file to write."""

    out: Path | None = option(
        None,
        kind="file",
        help="File to write: .safetensors, .bin (the same inside), .pth or .pt; .onnx, .xml or .pt2 for graphs.  "
        "[default: <run>/export/<checkpoint>-<form>.safetensors, -graph.onnx, ..., or beside the weights]",
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
    int8: bool = option(False, help="Matrices of the graph for frames in int8, of --onnx or --openvino.")
    calibrate: Path | None = option(
        None,
        kind="folder",
        exists=True,
        metavar="ROOT",
        help="Raw trees, as --raw takes, whose sequences scale the int8 graph of --openvino.",
    )
    overwrite: bool = option(False, help="Replace the file if it is there.")

    def check(self, form: str, settings: WeightsSettings) -> None:
        """Refuse (`UserError`) what a form has no meaning for, and what it lacks."""
        for name, given, meant in (
            ("dtype", self.dtype, form == "merged"),
            ("scalars", self.scalars, form == "published"),
            ("backbone", settings.backbone, form != "published"),
            ("opset", self.opset, form == "onnx"),
            ("int8", self.int8 or None, form in ("onnx", "openvino")),
            ("calibrate", self.calibrate, form == "openvino" and self.int8),
        ):
            if given is not None and not meant:
                raise UserError(f"--{name}: has no meaning for --{form}; leave it out")
        if form == "openvino" and self.int8 and self.calibrate is None:
            raise UserError("--int8: the graph of --openvino is scaled by real sequences; name trees with --calibrate")


def _form_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag a form; the command gets the one that is given."""

    @wraps(command)
    def of_one_form(**values: Any) -> Any:
        given = [f"--{form}" for form in _FORMS if values.pop(form.replace("-", "_"))]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)}: give one of them")
        if not given:
            raise UserError(f"export-weights: say what to write: {some([f'--{form}' for form in _FORMS], len(_FORMS))}")
        return command(form=given[0].removeprefix("--"), **values)

    for form, text in reversed(_FORMS.items()):
        of_one_form = click.option(f"--{form}", is_flag=True, help=text)(of_one_form)
    return of_one_form


@click.command("export-weights", cls=Command)
@_form_options
@options_of(WeightsSettings, "settings", "Weights")
@options_of(ExportOptions, "options", "Output")
def export_weights_command(form: str, settings: WeightsSettings, options: ExportOptions) -> None:
    """Write weights in another form.

    \b
    lorat-eval export-weights --merged --run runs/B-224-standard
    lorat-eval export-weights --published --weights model.safetensors --out lorat_b224.bin
    lorat-eval export-weights --onnx --out lorat.onnx
    lorat-eval export-weights --openvino --int8 --calibrate /data/raw --out lorat.xml

    Exit status 2 when an input is missing or does not fit.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    options.check(form, settings)
    weights, force = settings.file(), settings.force_backbone
    out = options.out or _default_out(weights, f"-graph{_GRAPHS[form]}" if form in _GRAPHS else f"-{form}.safetensors")
    sources = (*settings.files(), *([settings.backbone] if settings.backbone else ()))
    # torch and timm take seconds to import: help and mistakes need not wait for them.
    if form in _GRAPHS:
        what, files = "graph", _write_graphs(out, _GRAPHS[form], settings, options, sources)
    else:
        import torch

        from lorat.train.network.reading import read_weights
        from lorat.train.network.trained import export_merged, export_published
        from lorat.train.network.weights.containers import check_writable

        check_writable(out, options.overwrite, sources)
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


def _write_graphs(
    out: Path, suffix: str, settings: WeightsSettings, options: ExportOptions, sources: Collection[Path]
) -> list[Path]:
    """Write graphs, with what is needed beside them to track as the weights do."""
    from lorat.evaluate.track.predictor import known_shards
    from lorat.train.network.deploy.graphs import check_target, export_graphs
    from lorat.train.network.deploy.operators import NEWEST

    check_target(out, suffix, overwrite=options.overwrite, sources=sources)
    network, variant = settings.load_network()
    known, opset = known_shards(settings.file()), options.opset or NEWEST
    if not options.int8:
        return export_graphs(out, network, variant, opset, known)
    from lorat.train.network.deploy.int8 import quantise_onnx, quantise_openvino

    if options.calibrate is None:
        return export_graphs(out, network, variant, opset, known, partial(quantise_onnx, known={}))
    import torch

    from lorat.evaluate.calibrate.examples import CHECKED, CROPS, Frame, agreement, calibration_clips, draw_examples
    from lorat.evaluate.track.predictor import Predictor

    clips = calibration_clips(TreeOptions(raw=options.calibrate))
    predictor = Predictor(network, variant, torch.device("cpu"), torch.float32)
    used = set[Frame]()
    with progress_bar("crops") as bar:
        examples = draw_examples(predictor, clips, CROPS, "scales", lambda done: bar(done, CROPS), used)
    say(f"calibration: {examples.line()}")
    quantise = partial(quantise_openvino, examples=examples.inputs, known=examples.metadata())
    files = export_graphs(out, network, variant, opset, known, quantise)
    others = draw_examples(predictor, clips, CHECKED, "comparison", used=used)
    mean, least = agreement(predictor, out, others)
    say(f"boxes in other crops of these sequences overlap float32's by {mean:.3f} in the mean, {least:.3f} at least")
    return files


def _default_out(weights: Path, ending: str) -> Path:
    """Return a place that deleting old checkpoints does not touch."""
    if weights.parent.parent.name == "checkpoints":
        return weights.parents[2] / "export" / f"{weights.parent.name}{ending}"
    return weights.with_name(f"{weights.stem}{ending}")
