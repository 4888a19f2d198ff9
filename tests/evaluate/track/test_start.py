"""A tracker starts without what it does not need."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from lorat.configs.schema import BackboneConfig
from lorat.evaluate.track.tracker import Tracker
from lorat.train.network.reading import read_weights
from lorat.train.network.trained import export_merged, save_weights
from lorat.train.network.variants import build_network
from tests.evaluate.conftest import TINY, moving_box, picture

CODE = """
import json, sys
sys.modules["timm"] = None  # whoever imports it fails
from pathlib import Path
from lorat.evaluate.cli.vot import vot_tracker_command
from lorat.evaluate.track.tracker import Tracker
from tests.evaluate.conftest import moving_box, picture
tracker = Tracker.load(Path(sys.argv[1]), device="cpu", dtype="float32")
tracker.start(picture(0, 1), moving_box(0, 1))
boxes = [tracker.track(picture(n, 1)).box.tolist() for n in (1, 2, 3)]
slow = {"torchvision", "torch._dynamo", "torch._inductor", "sympy", "wandb", "matplotlib"} & sys.modules.keys()
print(json.dumps({"boxes": boxes, "slow": sorted(slow)}))
"""
ARGS = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 4}
BACKBONES = {
    "dinov2": TINY.backbone,
    "dinov2 with SwiGLU": BackboneConfig(
        timm="vit_giant_patch14_dinov2", pretrained=False, args=ARGS | {"patch_size": 8}
    ),
    "eva02": BackboneConfig(timm="eva02_base_patch14_224", pretrained=False, args=ARGS | {"patch_size": 8}),
    "dinov3": BackboneConfig(timm="vit_small_patch16_dinov3", pretrained=False, args=ARGS, prefix_tokens="all"),
}


@pytest.mark.parametrize("kind", BACKBONES)
def test_weights_that_say_how_they_are_built_track_without_timm(kind, tmp_path):
    variant = TINY.model_copy(update={"backbone": BACKBONES[kind]})
    torch.manual_seed(0)
    network, file = build_network(variant), tmp_path / "merged.safetensors"
    with torch.no_grad():
        network.head.reg_mlp.layers[-1].bias.fill_(-2.0)
    save_weights(tmp_path / "whole.safetensors", network, variant)
    export_merged(read_weights(tmp_path / "whole.safetensors"), file, torch.float32)
    said = json.loads(subprocess.run([sys.executable, "-c", CODE, str(file)], check=True, capture_output=True).stdout)
    assert said["slow"] == []
    tracker = Tracker.load(tmp_path / "whole.safetensors", device="cpu", dtype="float32")
    tracker.start(picture(0, 1), moving_box(0, 1))
    np.testing.assert_array_equal(said["boxes"], [tracker.track(picture(n, 1)).box for n in (1, 2, 3)])
