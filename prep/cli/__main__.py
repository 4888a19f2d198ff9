"""``python -m lorat.prep.cli``."""

from lorat.prep.cli import main

main()
