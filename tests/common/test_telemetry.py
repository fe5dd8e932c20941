"""Usage statistics of other libraries."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMES = ("MLFLOW_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")
SCRIPT = """
import os
from clsearch import Study
try:
    Study(algorithm="lwf", epochs=1).main(["--print-config"])
except SystemExit:
    print(os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["RAY_USAGE_STATS_ENABLED"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "shown"), [({}, "true 0"), (dict(zip(NAMES, ("false", "1"), strict=True)), "false 1")]
)
def test_a_study_turns_telemetry_off_unless_the_user_turns_it_on(chosen: dict[str, str], shown: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=clean | chosen, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == shown
