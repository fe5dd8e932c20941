"""What a process keeps of the memory that it freed."""

import subprocess
import sys

import pytest

CYCLES = """
import resource
first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    blocks = [b"x" * (30 * 2**20) for _ in range(3)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
"""


def faults(before: str) -> int:
    """Pages that the system had to give while 90 MiB were made and freed six times."""
    done = subprocess.run([sys.executable, "-c", before + CYCLES], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_what_was_freed_is_not_asked_for_again() -> None:
    asked, kept = faults(""), faults("from clsearch.execution.resources import tune_malloc; tune_malloc()")
    once = 90 * 2**20 // 4096
    assert kept < 2 * once < 4 * once < asked
