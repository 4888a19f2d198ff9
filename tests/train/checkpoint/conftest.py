from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def whole(runner, files, tmp_path_factory) -> Path:
    """The run folder of a module's run that was never stopped and had room."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    runner.run([*files, f"--run={folder}"])
    return folder
