"""``python -m lorat.train.cli``, as torchrun starts it."""

from lorat.train.cli import main

main()
