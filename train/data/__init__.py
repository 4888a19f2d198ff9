"""Shards to batches: places, samples, augmentation, labels."""
