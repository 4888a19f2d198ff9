"""Memory of a loader worker beyond what importing torch takes, in batches of 128.

A process of its own imports torch and notes its resident set. It then imports the rest (OpenCV, pydantic, our code),
and makes and collates batches as a loader worker does, one more batch alive than being made. Its peak resident set from
then on, less the first figure, is what counts. Shards are read, not mapped, so their page cache is in neither figure.
Also told: the pages that are a real worker's alone (its USS), which is small where workers are forked.
"""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.frames import TreeSize, built_shards

__all__ = ["run"]

_CHILD = """
import json, multiprocessing, sys
from pathlib import Path

def kb(pid, file, *fields):
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(fields))

import torch
torch_kb = kb("self", "status", "VmRSS:")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here

import cv2
from benchmarks.source import loader_source
from lorat.shards.manifest import load_manifest
from lorat.train.data.batches import make_loader

cv2.setNumThreads(1)  # as a worker does
torch.set_num_threads(1)
source = loader_source(load_manifest(Path(sys.argv[1])), int(sys.argv[2]))
for batch in make_loader(source):
    pass
peak_kb = kb("self", "status", "VmHWM:")
alone_kb = 0
for batch in make_loader(source, workers=1):
    worker, = (p.pid for p in multiprocessing.active_children())
    alone_kb = max(alone_kb, kb(worker, "smaps_rollup", "Private_Clean:", "Private_Dirty:"))
print(json.dumps({"torch": torch_kb, "peak": peak_kb, "alone": alone_kb}))
"""


def run(quick: bool) -> dict[str, float | str]:
    """Measure a worker.

    Args:
        quick: three batches of 8 pairs instead of eight of 128.

    Returns:
        MB (10⁶ bytes): resident after importing torch, beyond that at the peak, and alone a worker's.
    """
    batch, steps = (8, 3) if quick else (128, 8)
    manifest = built_shards(TreeSize.of(quick), batch * steps, batch)
    command = [sys.executable, "-c", _CHILD, str(manifest.folder), str(batch)]
    root = Path(__file__).parents[1]  # where the child finds this package
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root).stdout
    kb = json.loads(output)
    return {
        "torch_mb": round(kb["torch"] * 1.024e-3, 1),
        "worker_beyond_torch_mb": round((kb["peak"] - kb["torch"]) * 1.024e-3, 1),
        "worker_alone_mb": round(kb["alone"] * 1.024e-3, 1),
    }
