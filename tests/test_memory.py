"""Freed memory is kept: asked for again, it costs no page faults."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
import sys
import numpy as np
from jaxql.lab.machine import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24)  # 128 MiB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is meant")
def test_kept_memory_costs_no_page_faults():
    faults = [
        int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("keep", "return")
    ]
    assert faults[0] < 10 < faults[1]
