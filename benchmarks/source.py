"""What the loader reads in the benchmarks: one manifest, the published crops and augmentation."""

from lorat.configs.schema import AugmentConfig
from lorat.shards.manifest import Manifest
from lorat.train.data.places import CropSpec, Source

__all__ = ["B_224", "loader_source"]

B_224 = CropSpec(112, 224, 8, 16, 2.0, 4.0)


def loader_source(manifest: Manifest, batch: int) -> Source:
    """Return a source that goes through a manifest's pairs once an epoch, in batches."""
    return Source(
        manifests=(manifest,),
        weights=(1,),
        spec=B_224,
        augment=AugmentConfig(),
        seed=1,
        batch_size=batch,
        pairs_per_epoch=manifest.rows // batch * batch,
        epochs=1,
    )
