"""Shards looked at: what they hold, in numbers and pictures."""
