"""Large arrays are handed out again, and never while somebody uses them."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fit3d_ns.rasterization import buffers


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(buffers, "LARGE", 4000)
    monkeypatch.setattr(buffers, "KEPT_IN_ALL", 20_000)
    buffers._free.clear()
    yield
    buffers._free.clear()


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_a_released_buffer_serves_the_next_array_of_about_its_size() -> None:
    first = buffers.empty(50, 30)
    place = address(first)
    del first
    assert address(buffers.empty(1400)) == place


@pytest.mark.parametrize("size", [1000, 3000])
def test_a_buffer_that_is_much_too_large_or_too_small_is_left_alone(size: int) -> None:
    del (first := [buffers.empty(2000)])[0]
    assert first == []
    buffers.empty(size)
    assert [buffer.size for buffer in buffers._free] == [2000, size] or len(buffers._free) == 2


def test_what_a_view_or_a_tensor_refers_to_is_not_handed_out() -> None:
    tensor = torch.from_numpy(buffers.empty(40, 50))[3:, 2:]
    gc.collect()
    assert buffers._free == []
    other = buffers.zeros(40, 50)
    tensor.fill_(7.0)
    assert not other.any()
    del tensor
    gc.collect()
    assert len(buffers._free) == 1


def test_zeros_are_zeros_in_used_memory() -> None:
    used = buffers.empty(2000)
    used.fill(3.0)
    del used
    assert not buffers.zeros(2000).any()


def test_no_more_is_kept_than_the_bound() -> None:
    held = [buffers.empty(1200 + 400 * i) for i in range(6)]
    del held
    assert sum(buffer.nbytes for buffer in buffers._free) <= 20_000


def test_small_arrays_are_not_pooled() -> None:
    del (small := [buffers.empty(10)])[0]
    assert small == []
    assert buffers._free == []


LEASES_IN_CYCLES = """
import gc, threading
from fit3d_ns.rasterization import buffers

buffers.LARGE, buffers.KEPT_IN_ALL = 4000, 200_000
gc.set_threshold(1, 1, 1)  # a collection at nearly every allocation, also at those under a lock

def allocate():
    for i in range(3000):
        cycle = [buffers.empty(1000 + i % 50)]
        cycle.append(cycle)  # only a collection ends this lease

threads = [threading.Thread(target=allocate) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
gc.collect()
print(sum(buffer.nbytes for buffer in buffers._free) <= buffers.KEPT_IN_ALL)
"""


def test_leases_that_a_garbage_collection_ends_never_wait_for_the_thread_that_allocates() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEASES_IN_CYCLES], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
