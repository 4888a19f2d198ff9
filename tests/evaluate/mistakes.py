"""What every command owes a user who made a mistake."""

from click.testing import Result


def one_line_error(result: Result, *words: str) -> None:
    """See that a command ended with status 2 and one line that has these words."""
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr
