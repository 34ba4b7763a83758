"""Freed memory stays with the process, where the C library can be told so."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource
import numpy as np
from fit3d_ns.rasterization.allocator import keep_freed_memory

done = keep_freed_memory()

def use_and_free(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.empty(2_000_000, np.float32)[:] = 1.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

use_and_free(3)
print(done, use_and_free(20))
"""


def page_faults(**environment: str) -> tuple[bool, int]:
    """Whether the allocator was set up, and the page faults of twenty arrays of 8 MB, one after another."""
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    done, faults = result.stdout.split()
    return done == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's mallopt")
def test_arrays_that_come_and_go_are_not_mapped_again() -> None:
    done, faults = page_faults()
    assert done
    assert faults < 100  # one array has about 2,000 pages of 4 KB


def test_the_users_own_setting_stays() -> None:
    done, _ = page_faults(MALLOC_MMAP_THRESHOLD_="1000000")
    assert not done
