"""Shards become batches, batches train the network, and the network becomes checkpoints."""
