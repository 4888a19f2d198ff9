"""``python -m lorat.evaluate.cli``, as torchrun starts it."""

from lorat.evaluate.cli import main

main()
