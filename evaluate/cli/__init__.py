"""The command ``lorat-eval``."""

from lorat.evaluate.cli.track import main as main
