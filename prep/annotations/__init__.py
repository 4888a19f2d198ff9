"""Tracks as they are drawn from: cleaned, without what is excluded, indexed."""
