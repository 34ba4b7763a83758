"""What options choose from, apart from the modules that import torch: `--help` need not."""

from __future__ import annotations

from typing import Literal

PrecisionChoice = Literal["auto", "fp32", "bf16"]
Precision = Literal["fp32", "bf16"]

SavedWeights = Literal["merged", "adapter"]
"""What of the weights a folder holds: all of them, or the adapter alone that changes the original's."""
