"""Whole shards of a store, kept in a local folder."""
