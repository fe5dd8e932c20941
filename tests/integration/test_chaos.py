"""benchmarks/chaos.py with a few kills; with more it is for a night."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_study_that_is_killed_again_and_again_ends_as_one_that_nobody_disturbed() -> None:
    words = [sys.executable, "benchmarks/chaos.py", "--kills", "1", "--trials", "3", "--seed", "3"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "driver killed 1 times" in done.stdout
    assert "BAD" not in done.stdout
    assert done.stdout.count("ok  ") == 9
