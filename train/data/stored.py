"""How the shards of a training were built, and whether it needs others: more images, larger frames, nearer pairs."""

import json
from contextlib import closing, suppress

import numpy as np

from lorat.configs.schema import VariantConfig
from lorat.shards.base.errors import UserError
from lorat.shards.cache.cache import open_shard
from lorat.shards.manifest import Manifest
from lorat.shards.pixels.geometry import CropTransform, crop_transform
from lorat.shards.pixels.jitter import Jitter, jitter_window
from lorat.shards.pixels.resample import SERVED, serving, stored_by
from lorat.shards.sample import SHAPES, Sample, Shape
from lorat.train.data.places import CropSpec, Source

_PUBLISHED_GAP = 100  # frames; of shards that do not name theirs
_ROWS, _DRAWS = 128, 8  # stored samples that are looked at, and windows drawn on each


def about_shards(source: Source) -> dict[str, str]:
    """Return what weights say of the shards that most of their pairs came from: ``stored``, the fields of `Stored`."""
    _, manifest = max(zip(source.weights, source.manifests, strict=True), key=lambda pair: pair[0])
    stored = stored_by(manifest.config)
    return {"stored": json.dumps(stored)} if stored else {}


def check_images(manifest: Manifest, variant: VariantConfig) -> None:
    """Raise a `UserError` where a set's samples have fewer images than a variant's: it is trained on the last of them,
    and only search images show enough around the object to be jittered.
    """
    searches = variant.searches + (variant.reference_size is not None)
    needed = Shape(variant.templates, searches)
    fitting = [name for name, shape in SHAPES.items() if shape.searches >= searches and sum(shape) >= sum(needed)]
    if manifest.sampler in fitting:
        return
    had, needs = (
        f"{t} template{'s' * (t > 1)} and {s} search image{'s' * (s > 1)}" for t, s in (manifest.shape, needed)
    )
    sampler = min(fitting, key=lambda name: name != variant.method, default="")
    remedy = f"build others with lorat-prep build --sampler {sampler} in another folder, and name that with --shards"
    raise UserError(f"{manifest.folder}: its samples have {had}, {variant.name} needs {needs}; {remedy}")


def suiting(manifest: Manifest, source: Source) -> float:
    """Return about which share of a set's samples suits ``data.max_gap`` and ``data.causal``: of pairs by how they were
    built, of tuples by a look at some.
    """
    if manifest.sampler != "pair":
        found = [source.suits(sample) for sample in _some(manifest) if source.max_gap or source.causal]
        return max(1, sum(found)) / max(1, len(found))
    built, causal = manifest.config.get("max_gap", _PUBLISHED_GAP), manifest.config.get("causal", False)
    near = min(1.0, source.max_gap / built) if source.max_gap else 1.0
    return near / 2 if source.causal and not causal else near


def wanted_serve(spec: CropSpec) -> int:
    """Return which ``lorat-prep build --serve`` holds enough pixels for search crops and templates."""
    side = spec.template_size / spec.template_factor
    return max(
        serving(spec.search_size), min((s for s in SERVED if SERVED[s].object_side >= side), default=max(SERVED))
    )


def enlarged(manifest: Manifest, source: Source) -> float | None:
    """Return the share of search crops, or where shards are small for templates alone of these, that enlarge pixels
    which the shards hold smaller than the frames had them, by draws on a sample of stored pairs; None where shards
    serve the variant, do not say, or cannot be read.
    """
    spec, stored = source.spec, stored_by(manifest.config)
    if stored is None or stored.object_side >= SERVED[wanted_serve(spec)].object_side:
        return None
    searched = stored.object_side < SERVED[serving(spec.search_size)].object_side
    jitter = Jitter(source.augment.scale_jitter, source.augment.translation_jitter)
    rng, larger = np.random.default_rng(source.seed), list[bool]()
    for sample in _some(manifest):
        image = sample.images[-1 if searched else -len(spec.views)]
        kept = np.divide(image.size, np.subtract(image.window, image.origin))
        crops: list[CropTransform | None]
        if searched:
            size = spec.search_size
            crops = [jitter_window(image.box, spec.search_factor, size, rng, jitter) for _ in range(_DRAWS)]
        else:
            crops = [crop_transform(image.box, spec.template_factor, (spec.template_size, spec.template_size))]
        larger += [bool((kept < np.minimum(1.0, crop.scale)).any()) for crop in crops if crop]
    return float(np.mean(larger)) if larger else None


def _some(manifest: Manifest) -> list[Sample]:
    """Return the first samples of a set, each as random as any other, or those before one that cannot be read."""
    found = list[Sample]()
    with suppress(UserError), closing(open_shard(manifest, 0)) as reader:  # training tells what cannot be read
        found.extend(reader.read(row) for row in range(min(_ROWS, len(reader))))
    return found
