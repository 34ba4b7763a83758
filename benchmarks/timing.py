"""Timing two or more things in one process: alternately, after a run of each that does not count."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")

SETTLE = 0.2
"""Seconds before each timed call. Threads of BLAS libraries go on spinning after a product, in case another follows,
and take a core from what runs next: scipy's OpenBLAS for 50 to 100 ms, in which our kernels took twice as long."""


@dataclass(frozen=True)
class Spread:
    """Median and least of repeated timings, in seconds."""

    median: float
    least: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(median(values), min(values))

    def times(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.least * factor)


def synchronize(device: str | torch.device = "cpu") -> None:
    """Wait for what runs on a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds(function: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """How long one call takes."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def alternately(functions: Sequence[Callable[[], T]], repeats: int, warmup: int = 1) -> list[list[T]]:
    """What each function gave in `repeats` rounds, in which each is called once; earlier rounds are left out."""

    def settled(function: Callable[[], T]) -> T:
        time.sleep(SETTLE)
        return function()

    rounds = [[settled(function) for function in functions] for _ in range(warmup + repeats)]
    return [list(column) for column in zip(*rounds[warmup:], strict=True)]


def compare(
    functions: Sequence[Callable[[], object]], repeats: int, device: str | torch.device = "cpu", warmup: int = 1
) -> list[Spread]:
    """Timings of functions that run alternately."""
    columns = alternately([lambda f=f: seconds(f, device) for f in functions], repeats, warmup)  # type: ignore[misc]
    return [Spread.of(column) for column in columns]


def product_floor(
    operations: float, channels: int, threads: int, device: str | torch.device = "cpu"
) -> list[Callable[[], float]]:
    """Seconds of the least arithmetic: `operations` as one product [m, 256] x [256, channels], by each library at hand.

    Every function times its library once and scales to exactly `operations`. The floor is the fastest of them.
    """
    m = max(int(operations / (2 * 256 * channels)), 1)
    scale = operations / (2.0 * m * 256 * channels)
    a, b = torch.rand(m, 256, device=device), torch.rand(256, channels, device=device)
    out = torch.empty(m, channels, device=device)

    def by_torch() -> float:
        return scale * seconds(lambda: torch.mm(a, b, out=out), device)

    if torch.device(device).type == "cuda":
        return [by_torch]
    from scipy.linalg.blas import sgemm
    from threadpoolctl import threadpool_limits

    # Column-major, as BLAS wants it: (a b)^T = b^T a^T, which copies nothing.
    left, right, result = b.numpy().T, a.numpy().T, np.empty((m, channels), np.float32).T

    def by_scipy() -> float:
        with threadpool_limits(threads, user_api="blas"):
            return scale * seconds(lambda: sgemm(1.0, left, right, c=result, overwrite_c=1))

    return [by_torch, by_scipy]


def fitted_exponent(points: Sequence[tuple[float, float]]) -> float:
    """p of y = c x^p, by least squares on the logarithms of points (x, y)."""
    x, y = np.log(np.array(points, dtype=np.float64)).T
    return float(np.polyfit(x, y, 1)[0])
