"""The benchmark suite at settings too small to mean anything, so that it cannot rot."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "benchmarks" / "suite.py"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is measured on Linux only")
def test_the_suite_runs_and_writes_its_table(tmp_path):
    out, readme = tmp_path / "bench.json", tmp_path / "README.md"
    readme.write_text("before\n<!-- cost -->\nold\n<!-- /cost -->\nafter\n")
    parts = ["saliency", "guided", "codec", "epoch", "rate_control", "size", "cuda"]  # imports take long
    command = [sys.executable, str(SUITE), "--quick", "--out", str(out), "--readme", str(readme), "--only", *parts]
    subprocess.run(command, check=True, timeout=280)
    found = json.loads(out.read_text())["parts"]
    assert list(found) == parts
    for part in ("saliency", "guided", "codec", "size"):
        for rows in found[part].values():
            assert all(math.isfinite(row["ratio"]) and row["ms"] > 0 for name, row in rows.items() if name != "skipped")
    assert all(row["ratio"] > 0 for row in found["epoch"].values())
    assert found["epoch"]["0 workers"]["with"]["peak_MB"] >= 0  # of a small epoch next to nothing
    assert all(math.isfinite(row["peak_MB"]) for rows in found["size"].values() for row in rows.values())
    assert all(row["forwards"] >= 2 for row in found["rate_control"].values())
    assert out.with_suffix(".png").stat().st_size > 1000
    text = readme.read_text()
    assert text.startswith("before\n<!-- cost -->\n")
    assert text.endswith("\n<!-- /cost -->\nafter\n")
    assert "`GradCam`, mobilenet_v2, batch 2 | forward pass |" in text
    assert "old" not in text
