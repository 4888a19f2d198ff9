"""The command ``lorat-train``."""

from lorat.train.cli.train import main as main
