"""What the C library keeps of freed memory, in a process of its own, since it is told so for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from cmmixer.runtime import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def work():
    for _ in range(20):
        # As the activations of a step: many at once, then none.
        some = [np.ones(1_000_000) for _ in range(10)]
        del some
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's")
def test_pages_of_freed_memory_do_not_come_anew() -> None:
    faults = {}
    for kind in ("given back", "kept"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, kind], capture_output=True, text=True, check=True)
        faults[kind] = int(done.stdout)
    # 80 MB twenty times are 800 pages where they are as large as 2 MB, 390,000 where they have 4 kB.
    assert faults["given back"] > 500
    assert faults["kept"] < 100
