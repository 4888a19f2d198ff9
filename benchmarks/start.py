"""What starts a tracker: processor time until the network stands, in a process of its own, as VOT's toolkit starts one.

The other side imports PyTorch and reads the bytes of the same file. The two alternate; weights are merged ones with
invented values. Time that other processes take is in neither.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.timing import median_ratio
from lorat.configs.load import load_variant
from lorat.train.network.reading import read_weights
from lorat.train.network.trained import export_merged, save_weights
from lorat.train.network.variants import assemble

__all__ = ["run"]

_BARE = "import sys, torch; open(sys.argv[1], 'rb').read()"
_VARIANTS = {"toy": "start_of_torch", "S-224": "start_s224_of_torch"}


def run(quick: bool) -> dict[str, float | str]:
    """Measure starts.

    Args:
        quick: the toy network alone, twice.

    Returns:
        Processor seconds of both sides and their ratio, for a toy network and S-224.
    """
    rounds = 2 if quick else 7
    found: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, key in list(_VARIANTS.items())[: 1 if quick else 2]:
            file = _merged(Path(folder), name)
            options = [f"--weights={file}", "--device=cpu", "--dtype=float32"]
            sides = {
                "torch": [sys.executable, "-c", _BARE, str(file)],
                "start": [sys.executable, "-m", "lorat.evaluate.cli", "vot-tracker", *options],
            }
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, command in sides.items():
                    seconds[side].append(_processor_seconds(command))
            found |= {f"{side}_{name}_s": round(sorted(times)[rounds // 2], 2) for side, times in seconds.items()}
            found[key] = round(median_ratio(seconds["start"], seconds["torch"]), 3)
    return found


def _merged(folder: Path, name: str) -> Path:
    variant = load_variant(name, ["backbone.pretrained=false"])
    network = assemble(variant, None)
    save_weights(folder / "whole.safetensors", network, variant)
    file = folder / f"{name}.safetensors"
    export_merged(read_weights(folder / "whole.safetensors"), file, torch.float32)
    return file


def _processor_seconds(command: list[str]) -> float:
    """Return what a process took. A tracker whose stdin is at its end loads its network, asks once, and ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode and "the toolkit is gone" not in ended.stderr:
        raise RuntimeError(f"{command}: {ended.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
