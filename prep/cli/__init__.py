"""``lorat-prep``: raw data set trees to shards.

Worker processes import this as well, so each command's own imports wait until it is asked for.
"""

import click

from lorat.prep.commandline import Group

_MODULES = {name: f"{__name__}.{name}" for name in ("build", "check", "doctor", "toyworld")}
_MODULES |= {name: f"{__name__}.shards" for name in ("inspect", "stats", "verify")}


@click.group(cls=Group, modules=_MODULES)
@click.version_option(package_name="lorat")
def main() -> None:
    """Turn raw data set trees into audited, compressed shards of frame pairs."""
    from lorat.shards.base.console import start_logging  # rich: nothing for a worker

    start_logging()
