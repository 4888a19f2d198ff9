"""How the shards of a training were built, and how often it would need others: larger frames, nearer pairs."""

import json
from contextlib import closing, suppress

import numpy as np

from lorat.shards.base.errors import UserError
from lorat.shards.cache.cache import open_shard
from lorat.shards.manifest import Manifest
from lorat.shards.pixels.jitter import Jitter, jitter_window
from lorat.shards.pixels.resample import SERVED, serving, stored_by
from lorat.train.data.places import Source

_PUBLISHED_GAP = 100  # frames; of shards that do not name theirs
_ROWS, _DRAWS = 128, 8  # stored pairs that are looked at, and windows drawn on each


def about_shards(source: Source) -> dict[str, str]:
    """Return what weights say of the shards that most of their pairs came from: ``stored``, the fields of `Stored`."""
    _, manifest = max(zip(source.weights, source.manifests, strict=True), key=lambda pair: pair[0])
    stored = stored_by(manifest.config)
    return {"stored": json.dumps(stored)} if stored else {}


def suiting(manifest: Manifest, source: Source) -> float:
    """Return about which share of a set's pairs suits ``data.max_gap`` and ``data.causal``, by how it was built."""
    built, causal = manifest.config.get("max_gap", _PUBLISHED_GAP), manifest.config.get("causal", False)
    near = min(1.0, source.max_gap / built) if source.max_gap else 1.0
    return near / 2 if source.causal and not causal else near


def enlarged(manifest: Manifest, source: Source) -> float | None:
    """Return the share of search crops that enlarge pixels which the shards hold smaller than the frames had them, by
    draws on a sample of stored pairs; None where shards serve the variant, do not say, or cannot be read.
    """
    spec, stored = source.spec, stored_by(manifest.config)
    if stored is None or stored.object_side >= SERVED[serving(spec.search_size)].object_side:
        return None
    jitter = Jitter(source.augment.scale_jitter, source.augment.translation_jitter)
    rng, larger = np.random.default_rng(source.seed), list[bool]()
    with suppress(UserError), closing(open_shard(manifest, 0)) as reader:  # training tells what cannot be read
        for row in range(min(_ROWS, len(reader))):  # a pair is as random as any other
            image = reader.read(row).search
            kept = np.divide(image.size, np.subtract(image.window, image.origin))
            drawn = (jitter_window(image.box, spec.search_factor, spec.search_size, rng, jitter) for _ in range(_DRAWS))
            larger += [bool((kept < np.minimum(1.0, crop.scale)).any()) for crop in drawn if crop]
    return float(np.mean(larger)) if larger else None
