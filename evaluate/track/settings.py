"""What weights are tracked with and how, declared once: each field is an option of the commands."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorat.configs.load import load_variant
from lorat.configs.schema import AugmentConfig, VariantConfig
from lorat.evaluate.track.memory.crops import Resize
from lorat.shards.base.errors import UserError
from lorat.shards.base.machine import cores_a_rank
from lorat.shards.base.options import option
from lorat.shards.pixels.jpeg import RANGE16, Range16
from lorat.train.network.deploy import RUNTIMES

if TYPE_CHECKING:
    from lorat.train.network.blocks.lorat import OneStream

EngineName = Literal["torch", "onnx", "openvino"]

_RUNS, _MODEL = Path("runs"), "checkpoints/[!.]*/model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsSettings:
    """Trained weights, and what they need to become a network."""

    run: Path | None = option(
        None,
        names=("--run", "--run-dir"),
        kind="folder",
        help="A run folder, for its last checkpoint. Write --run-dir under torchrun.",
    )
    weights: tuple[Path, ...] = option(
        (), kind="file", help="A weights file, instead of a run; of LoRATv2 both phases' files, the first one's first."
    )
    variant: str | None = option(None, help="Variant of weights that do not name theirs (B-224, a YAML file).")
    backbone: Path | None = option(None, kind="file", help="The pretrained backbone's file, if not found.")
    force_backbone: bool = option(False, help="Take another backbone than the weights were trained on.")

    def file(self) -> Path:
        """Return the weights file that is meant; the newest run's where none is named, and the last of several."""
        return self.files()[-1]

    def files(self) -> tuple[Path, ...]:
        """Return the files that are meant, which go on from each other."""
        if not self.weights:
            return (run_weights(self.run),)
        if self.run is not None:
            raise UserError("--run and --weights: give one of them")
        if missing := [path for path in self.weights if not path.is_file()]:
            raise UserError(f"{missing[0]}: no such weights file; check --weights")
        return self.weights

    def variant_config(self) -> VariantConfig | None:
        """Return the variant that is named, or None where the weights are to say."""
        return None if self.variant is None else load_variant(self.variant)

    def load_network(self, **how: Any) -> "tuple[OneStream, VariantConfig]":
        """Return the merged network; `how` is what else `load_network` takes."""
        from lorat.train.network.trained import load_network  # torch is not for every command

        how |= {"backbone": self.backbone, "variant": self.variant_config(), "force_backbone": self.force_backbone}
        *before, last = self.files()
        return load_network(last, before=before, **how)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackerSettings(WeightsSettings):
    """A tracker: weights, and how they compute."""

    engine: EngineName | None = option(
        None,
        shown="torch, or that of the graph in --weights",
        help="What computes the network: PyTorch, or on a processor onnxruntime or OpenVINO, for which it is exported "
        "once; int8 graphs are written by export-weights.",
    )
    device: str = option("auto", help="auto, cpu, cuda, cuda:<index> or mps.")
    dtype: str = option("auto", help="auto, float32, bfloat16 or float16.")
    resize: Resize = option(
        "published",
        help="How frames are shrunk into crops: not antialiased, as for the published numbers, or "
        "averaged over areas, as training on shards saw them.",
    )
    range16: Range16 | None = option(None, **RANGE16)
    redetect: bool | None = option(
        None,
        names=("--redetect/--no-redetect",),
        help="Seek a lost object over all of the frame; by default in one's own video, and not where scores are made.",
    )

    @property
    def graph(self) -> Path | None:
        """The graph that is named as weights."""
        return next((path for path in self.weights if path.suffix in RUNTIMES), None)

    def chosen_engine(self) -> str:
        """Return the engine that is named, or else the weights' own; a `UserError` if these are a graph of another."""
        own = None if self.graph is None else RUNTIMES[self.graph.suffix]
        if own and self.engine not in (None, own):
            raise UserError(f"--engine {self.engine}: {self.graph} is a graph for {own}; leave --engine out")
        return self.engine or own or "torch"

    def device_name(self) -> str:
        """Return the device's name; graphs are computed on the processor."""
        if (engine := self.chosen_engine()) == "torch":
            return self.device
        if self.device not in ("auto", "cpu"):
            raise UserError(f"--device {self.device}: --engine {engine} computes on the processor; leave --device out")
        return "cpu"

    def parts(self) -> tuple[Path, ...]:
        """Return all files that hold what is meant: those of `files`, and what belongs to a graph."""
        if self.graph is None:
            return self.files()
        from lorat.train.network.deploy.graphs import graph_parts

        return tuple(graph_parts(self.file()))

    def load_network(self, **how: Any) -> "tuple[OneStream, VariantConfig]":
        """Return the merged network as `WeightsSettings` does; a graph's is on the meta device."""
        self.chosen_engine()
        if self.graph is None:
            return super(TrackerSettings, self).load_network(**how)
        for name in ("variant", "backbone", "force_backbone"):
            if getattr(self, name):
                raise UserError(f"--{name.replace('_', '-')}: has no meaning for {self.graph}; leave it out")
        if len(self.weights) > 1:
            raise UserError(f"--weights: {self.graph} is a whole tracker; give no other file beside it")
        from lorat.evaluate.track.engines.graph import described

        return described(self.file())


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSettings(TrackerSettings):
    """A tracker of many sequences side by side."""

    batch: int | None = option(
        None,
        least=1,
        shown="16; on CUDA 16 to 64, one for 256 MiB of its memory; fewer where memory does not hold them",
        help="Sequences side by side.",
    )
    threads: int = option(
        min(8, cores_a_rank()),
        least=1,
        shown="one a core, at most 8",
        help="Threads that decode images, in each process.",
    )
    compile: bool = option(False, help="Compile the network first, which takes a minute or so.")

    def chosen_engine(self) -> str:
        """Return what `TrackerSettings` does; a `UserError` also where that cannot be compiled."""
        engine = super(BatchSettings, self).chosen_engine()
        if self.compile and engine != "torch":
            raise UserError(f"--compile: is for PyTorch alone, not for --engine {engine}; leave one of them out")
        return engine


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSettings(WeightsSettings):
    """A network, and how it computes and looks."""

    device: str = option("auto", help="auto, cpu, cuda, cuda:<index> or mps.")
    dtype: str = option("auto", help="auto, float32, bfloat16 or float16.")
    pairs: int = option(4096, least=1, help="Of each set, drawn as an epoch of training draws them.")
    seed: int = option(0, least=0, help="Another seed draws other pairs and windows.")
    workers: int = option(1, least=0, help="Processes that cut crops.")
    scale_jitter: float = option(
        AugmentConfig().scale_jitter, least=0.0, help="Of search windows, as a recipe's augment.scale_jitter."
    )
    translation_jitter: float = option(
        AugmentConfig().translation_jitter, least=0.0, help="As a recipe's augment.translation_jitter."
    )


def run_weights(run: Path | None) -> Path:
    """Return the weights file of a run's last checkpoint; without a run, of the one whose weights were written last. A
    run is a folder with ``checkpoints/<checkpoint>/model.safetensors``; a finished number of epochs (``epoch_0010``)
    goes before a rolling checkpoint (``step_…``), and the higher number before the lower.
    """
    if run is None:
        remedy = "train one with lorat-train, or name one with --run or --weights"
        if not (files := list(_RUNS.glob(f"*/{_MODEL}"))):
            raise UserError(f"{_RUNS}: no run with weights there; {remedy}")
        run = max(files, key=lambda file: (file.stat().st_mtime_ns, str(file))).parents[2]
    elif not run.is_dir():
        raise UserError(f"{run}: no such run; name a folder that lorat-train wrote with --run")
    if not (files := list(run.glob(_MODEL))):
        raise UserError(f"{run}: no checkpoints/*/model.safetensors; let the training write one, or use --weights")

    def rank(file: Path) -> tuple[bool, int, str]:
        name = file.parent.name
        number = re.search(r"(\d+)$", name)
        return name.startswith("epoch_"), int(number[1]) if number else -1, name

    return max(files, key=rank)


def default_out(weights: Path) -> Path:
    """Return ``<run>/eval/<checkpoint>``, or ``eval/<name>`` beside a file outside a run."""
    checkpoint = weights.parent
    if checkpoint.parent.name == "checkpoints":
        return checkpoint.parents[1] / "eval" / checkpoint.name
    return weights.parent / "eval" / weights.stem
