"""``python -m lorat.prep.cli``, as torchrun starts it."""

from lorat.prep.cli import main

main()
