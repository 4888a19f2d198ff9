from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lorat.configs.schema import BackboneConfig, VariantConfig
from lorat.evaluate.track.predictor import Predictor
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.pixels.jpeg import encode
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.trained import save_weights
from lorat.train.network.variants import build_network

SIZE = (96, 72)

TINY = VariantConfig(
    name="tiny",
    backbone=BackboneConfig(
        timm="vit_small_patch14_dinov2",
        pretrained=False,
        args={"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "init_values": None},
    ),
    lora=None,
    template_size=32,
    search_size=64,
)


def _variant(method: str) -> VariantConfig:
    """A tracker of a method, as small as TINY; SPMTrack's with experts, LoRATv2's with pairs of each frame."""
    experts, pairs = {"rank": 4, "alpha": 40.0, "experts": 3}, {"rank": 4, "alpha": 40.0}
    of_method = {
        "lorat": {},
        "spmtrack": {"templates": 3, "searches": 2, "lora": experts},
        "loratv2": {"reference_size": 32, "lora": pairs},
    }[method]
    return VariantConfig.model_validate(
        TINY.model_dump() | {"name": f"{method}-tiny", "method": method, "reference_threshold": 0.5} | of_method
    )


def _network(variant: VariantConfig = TINY):
    torch.manual_seed(3)
    network = build_network(variant)
    with torch.no_grad():
        # Random weights that answer differently in every cell, with boxes of the object's size.
        for part in (network.head.cls_mlp, network.head.reg_mlp):
            for layer in part.layers:
                layer.weight.mul_(12.0)
        network.head.reg_mlp.layers[-1].weight.mul_(0.2)
        network.head.reg_mlp.layers[-1].bias.fill_(-2.0)
    return network


@pytest.fixture(scope="session")
def tiny_predictor() -> Predictor:
    return Predictor(_network().eval(), TINY, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def small() -> Callable[[str], Predictor]:
    """A small tracker of a method."""

    def build(method: str) -> Predictor:
        variant = _variant(method)
        network = _network(variant).requires_grad_(False).eval()
        merge_adapters(network)
        return Predictor(network, variant, torch.device("cpu"), torch.float32)

    return build


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "checkpoints" / "epoch_0010" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_weights(path, _network(), TINY)
    return path


def moving_box(index: int, seed: int) -> np.ndarray:
    x, y = 20.0 + 1.5 * index + seed, 18.0 + 0.75 * index
    return np.array([x, y, x + 22.0, y + 17.0])


def picture(index: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 120, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    patch = rng.integers(0, 256, (17, 22, 3), dtype=np.uint8)
    x1, y1, _, _ = moving_box(index, seed).astype(int)
    image[y1 : y1 + 17, x1 : x1 + 22] = patch[: SIZE[1] - y1, : SIZE[0] - x1]
    return image


def write_frames(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        data = encode(picture(index, seed), 95)
        (folder / f"{index + 1:08d}.jpg").write_bytes(data)


@pytest.fixture
def make_clip(tmp_path: Path):
    def make(name: str, frames: int, seed: int = 0) -> Clip:
        folder = tmp_path / "frames" / name
        write_frames(folder, frames, seed)
        boxes = np.stack([moving_box(index, seed) for index in range(frames)])
        track = Track(boxes, np.ones(frames, dtype=bool))
        files = FrameFiles(folder, range(1, frames + 1), "%08d.jpg")
        return Clip("got10k", "val", name, files, (track,), frames)

    return make


def write_got10k(raw: Path, split: str, lengths: tuple[int, ...]) -> None:
    names = [f"GOT-10k_{split.capitalize()}_{n:06d}" for n in range(1, len(lengths) + 1)]
    for seed, (name, frames) in enumerate(zip(names, lengths, strict=True)):
        folder = raw / "GOT-10k" / split / name
        write_frames(folder, frames, seed)
        boxes = [moving_box(index, seed) for index in range(frames if split == "val" else 1)]
        lines = [f"{x1},{y1},{x2 - x1},{y2 - y1}\n" for x1, y1, x2, y2 in boxes]
        (folder / "groundtruth.txt").write_text("".join(lines))
        if split == "val":
            (folder / "absence.label").write_text("0\n" * frames)
            (folder / "cover.label").write_text("8\n" * frames)
    (raw / "GOT-10k" / split / "list.txt").write_text("\n".join(names) + "\n")


@pytest.fixture
def got10k_raw(tmp_path: Path) -> Path:
    """A raw folder with GOT-10k's val (3 sequences) and test (2 sequences) splits."""
    write_got10k(tmp_path / "raw", "val", (5, 6, 7))
    write_got10k(tmp_path / "raw", "test", (5, 6))
    return tmp_path / "raw"
