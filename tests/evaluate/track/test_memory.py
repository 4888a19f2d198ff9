"""Trackers that remember: traces of the published systems, and what is kept of a target."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.evaluate.track.memory.templates import Album, Entry, chosen
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.tracker import Tracker
from lorat.shards.pixels.geometry import CropTransform, adjust, box_mask, crop_transform
from lorat.shards.pixels.jpeg import read_image
from lorat.train.network.trained import load_network

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def spmtrack(rule: str = "quarter") -> VariantConfig:
    return VariantConfig(
        name="spmtrack-trace",
        method="spmtrack",
        backbone=BackboneConfig(timm="vit_small_patch14_dinov2", pretrained=False, args=SIZES),
        lora=LoraConfig(rank=4, alpha=8, experts=4),
        template_size=196,
        search_size=224,
        search_factor=5.0,
        templates=3,
        searches=2,
        memory_rule=rule,
    )


def loratv2(phase: int, threshold: float = 0.9) -> VariantConfig:
    return VariantConfig(
        name=f"loratv2-p{phase}-trace",
        method="loratv2",
        backbone=BackboneConfig(
            timm="vit_small_patch14_reg4_dinov2.lvd142m",
            layout="timm",
            prefix_tokens="registers",
            args=SIZES | {"img_size": 224},
        ),
        lora=LoraConfig(rank=4, alpha=4),
        template_size=84,
        search_size=112 if phase == 1 else 140,
        search_factor=4.0 if phase == 1 else 5.0,
        reference_size=None if phase == 1 else 84,
        reference_threshold=threshold,
    )


def predictor_of(golden: Path, tmp_path: Path, variant: VariantConfig) -> Predictor:
    """The published network of a trace."""
    options = {}
    if variant.method == "spmtrack":
        last = golden / "g11_spmtrack_tracker_state.safetensors"
    else:
        files = dict[str, dict[str, torch.Tensor]]()
        for name, tensor in load_file(golden / "g12_loratv2_tracker_states.safetensors").items():
            part, _, name = name.partition(".")
            files.setdefault(part, {})[name] = tensor
        for part, tensors in files.items():
            save_file(tensors, tmp_path / f"{part}.safetensors")
        backbone, first, second = (tmp_path / f"{part}.safetensors" for part in ("backbone", "p1", "p2"))
        last = first if variant.reference_size is None else second
        options = {"before": [] if last == first else [first], "backbone": backbone}
    network, variant = load_network(last, variant=variant, **options)
    return Predictor(network, variant, torch.device("cpu"), torch.float32)


def follow(tracker: Tracker, golden: Path, first: np.ndarray):
    """Track the frames of a trace."""
    files = sorted((golden / "g7_seqA").glob("*.jpg"))
    tracker.start(read_image(files[0]), first)
    return [tracker.track(read_image(file)) for file in files[1:]]


def assert_boxes(found, boxes, scores):
    np.testing.assert_allclose([box for box, _ in found], boxes[1:], rtol=0, atol=1e-3)
    np.testing.assert_allclose([score for _, score in found], scores[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["quarter", "third"])
def test_spmtrack_follows_the_published_trace(golden, tmp_path, rule):
    trace = np.load(golden / "g11_spmtrack_trace.npz")
    tracker = Tracker(predictor_of(golden, tmp_path, spmtrack(rule)))
    found = follow(tracker, golden, trace[f"{rule}/boxes"][0])
    print(np.abs(np.array([b for b,_ in found])-trace[f"{rule}/boxes"][1:]).max(), np.abs(np.array([b for _,b in found])-trace[f"{rule}/scores"][1:]).max())
    assert_boxes(found, trace[f"{rule}/boxes"], trace[f"{rule}/scores"])


@pytest.mark.parametrize("phase", [1, 2])
def test_loratv2_follows_the_published_trace(golden, tmp_path, phase):
    trace = np.load(golden / "g12_loratv2_trace.npz")
    tracker = Tracker(predictor_of(golden, tmp_path, loratv2(phase)))
    found = follow(tracker, golden, trace[f"p{phase}/boxes"][0])
    print(np.abs(np.array([b for b,_ in found])-trace[f"p{phase}/boxes"][1:]).max(), np.abs(np.array([b for _,b in found])-trace[f"p{phase}/scores"][1:]).max())
    assert_boxes(found, trace[f"p{phase}/boxes"], trace[f"p{phase}/scores"])
