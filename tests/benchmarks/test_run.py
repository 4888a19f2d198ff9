"""The benchmarks run; what they measure is nobody's business here."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.rows import shown

ROOT = Path(__file__).parents[2]


def test_the_runner_prints_a_table_and_writes_json(tmp_path):
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--only", "order"]
    done = subprocess.run([*command, "--json", str(file)], cwd=ROOT, check=True, capture_output=True, text=True)
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["quick"] is True
    assert [row["what"] for row in report["rows"]] == ["an epoch's order, pool of 4 M", "resume in mid-epoch"]
    assert report["numbers"]["order"]["resume_s"] >= 0


def test_a_number_type_that_was_not_measured_has_no_rows():
    results = {"inference": {"frame_ours_float32_ms": 380.0, "frame_speedup_float32": 1.2}}
    rows = [row.cells(numbers) for row, numbers in shown(results)]
    assert [(what, ratio) for what, _, ratio, *_ in rows] == [("a frame of B-224, float32", "1.20x")]
