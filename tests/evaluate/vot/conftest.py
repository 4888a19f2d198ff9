import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def toolkit() -> str:
    """The toolkit's program: that of ``$LORAT_VOT_TOOLKIT``, or of an environment that is made once and kept."""
    if named := os.environ.get("LORAT_VOT_TOOLKIT"):
        return named
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "lorat" / "vot-toolkit-0.7.4"
    made = subprocess.run(["sh", ROOT / "tools/vot.sh", folder, sys.executable], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no toolkit here: {made.stderr.strip().splitlines()[-1]}")
    return str(folder / "env/bin/vot")
