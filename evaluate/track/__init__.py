"""Frames to boxes: one object, many sequences, many processes."""
