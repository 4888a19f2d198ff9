"""``lorat-prep``: raw data set trees to shards."""

from __future__ import annotations

import click

from lorat.prep.cli_build import build_command
from lorat.prep.cli_check import check_command
from lorat.prep.cli_doctor import doctor_command
from lorat.prep.cli_inspect import inspect_command
from lorat.prep.cli_stats import stats_command
from lorat.prep.cli_toyworld import toyworld_command
from lorat.prep.cli_verify import verify_command
from lorat.shards.console import start_logging

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
