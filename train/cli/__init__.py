"""The command ``lorat-train``."""

from lorat.train.cli.train import main

__all__ = ["main"]
