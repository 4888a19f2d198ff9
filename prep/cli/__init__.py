"""``lorat-prep``: raw data set trees to shards."""

from __future__ import annotations

import click

from lorat.prep.cli.build import build_command
from lorat.prep.cli.check import check_command
from lorat.prep.cli.doctor import doctor_command
from lorat.prep.cli.inspect import inspect_command
from lorat.prep.cli.stats import stats_command
from lorat.prep.cli.toyworld import toyworld_command
from lorat.prep.cli.verify import verify_command
from lorat.prep.commandline import Group, group_settings
from lorat.shards.base.console import start_logging

__all__ = ["main"]


@click.group(cls=Group, context_settings=group_settings)
@click.version_option(package_name="lorat")
def main() -> None:
    """Turn raw data set trees into audited, compressed shards of frame pairs."""
    start_logging()


main.add_command(build_command)
main.add_command(check_command)
main.add_command(doctor_command)
main.add_command(inspect_command)
main.add_command(stats_command)
main.add_command(toyworld_command)
main.add_command(verify_command)

if __name__ == "__main__":
    main()
