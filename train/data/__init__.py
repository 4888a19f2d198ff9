"""Shards to batches: places, pairs, augmentation, labels."""
