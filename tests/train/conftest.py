from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lorat.configs.schema import AugmentConfig, BackboneConfig, RecipeConfig, VariantConfig
from lorat.shards.manifest import load_manifest
from lorat.train.batches import Source
from lorat.train.labels import CropSpec


@pytest.fixture(scope="session")
def tiny_variant() -> VariantConfig:
    args = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
    backbone = BackboneConfig(
        timm="vit_small_patch14_dinov2", pretrained=False, args={**args, "init_values": None}
    )
    return VariantConfig(
        name="tiny", backbone=backbone, lora=None, template_size=32, search_size=64
    )


@pytest.fixture(scope="session")
def tiny_recipe() -> RecipeConfig:
    return RecipeConfig.model_validate(
        {
            "name": "tiny",
            "data": {"datasets": {"toy-train": 2, "toy-val": 1}, "workers": 0},
            "train": {
                "batch_size": 8,
                "pairs_per_epoch": 24,
                "epochs": 3,
                "lr": 1e-3,
                "warmup_epochs": 1,
                "checkpoint_epochs": 1,
                "log_steps": 1,
                "dtype": "float32",
            },
        }
    )


@pytest.fixture(scope="session")
def source(tiny_shards: Path) -> Source:
    return Source(
        manifests=tuple(load_manifest(tiny_shards / n) for n in ("toy-train", "toy-val")),
        weights=(2, 1),
        spec=CropSpec(32, 64, 2, 4, 2.0, 4.0),
        augment=AugmentConfig(motion_blur=0.3, rotation=0.3),
        seed=42,
        batch_size=8,
        pairs_per_epoch=24,
        epochs=3,
    )


@pytest.fixture
def files(
    tmp_path: Path, tiny_variant: VariantConfig, tiny_recipe: RecipeConfig, tiny_shards: Path
) -> list[str]:
    """The command line of a small training."""
    for name, config in (("variant", tiny_variant), ("recipe", tiny_recipe)):
        text = yaml.safe_dump(config.model_dump(mode="json"))
        (tmp_path / f"{name}.yaml").write_text(text)
    return [
        f"--variant={tmp_path / 'variant.yaml'}",
        f"--recipe={tmp_path / 'recipe.yaml'}",
        f"--shards={tiny_shards}",
        "--device=cpu",
    ]
