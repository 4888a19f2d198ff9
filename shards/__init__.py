"""The data contract: boxes and crops, samples, shards, manifests, and the training order."""
