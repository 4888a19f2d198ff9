"""``lorat-prep``: raw data set trees to shards.

Worker processes import this as well, so each command's own imports wait until it is asked for.
"""

import click

from lorat.prep.commandline import Group

_COMMANDS = {
    "build": "build",
    "check": "check",
    "doctor": "doctor",
    "inspect": "shards",
    "stats": "shards",
    "toyworld": "toyworld",
    "verify": "shards",
}
"""Command → the module that it stands in."""


@click.group(cls=Group, modules={name: f"{__name__}.{module}" for name, module in _COMMANDS.items()})
@click.version_option(package_name="lorat")
def main() -> None:
    """Turn raw data set trees into audited, compressed shards of frame pairs."""
    from lorat.shards.base.console import start_logging  # rich: nothing for a worker

    start_logging()
