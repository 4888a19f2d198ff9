"""Checking shards against their manifest and their own rows."""
