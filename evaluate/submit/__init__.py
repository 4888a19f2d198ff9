"""Zips for servers: packed and judged."""
