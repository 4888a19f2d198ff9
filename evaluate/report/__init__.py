"""Scores as tables, curves, JSON and a page."""
