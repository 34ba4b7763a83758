"""Benchmarks: `python -m benchmarks.<name>`."""

import os

# Before torch loads its OpenMP runtime, which reads this once: idle torch threads must not spin against the kernels.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
