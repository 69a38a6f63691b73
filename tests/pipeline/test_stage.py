"""What every stage does before it starts its work."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from pipeline.stage import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(8 << 20)  # 64 MiB, which glibc gives back each time it is freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another C library keeps memory in ways of its own")
def test_freed_memory_is_kept_so_that_no_page_is_waited_for_twice():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    if given_back < 100:
        pytest.skip("this C library, or an allocator that is preloaded, keeps freed memory by itself")
    assert kept < given_back / 10
