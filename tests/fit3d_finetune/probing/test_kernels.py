"""Compiled just now or read from Numba's cache, the probes' kernels give the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DIGEST = """
import hashlib
import torch
from fit3d_finetune.probing.depth_loss import binned_depth, depth_loss

digest = hashlib.sha256()
for seed in range(8):  # roundings differ here and there only
    random = torch.Generator().manual_seed(seed)
    outputs = torch.randn(2, 12, 16, 3, 64, generator=random).requires_grad_()
    depth = binned_depth(outputs, 10.0, 2)
    depth.backward(torch.randn(depth.shape, generator=random))
    predicted = (torch.rand(4, 3, 84, 112, generator=random) + 1).requires_grad_()
    truth = torch.rand(4, 84, 112, generator=random) * 5 + 1
    losses = depth_loss(predicted, truth, truth > 2)
    losses.sum().backward()
    for found in (depth, outputs.grad, losses, predicted.grad):
        digest.update(found.detach().numpy().tobytes())
print("DIGEST", digest.hexdigest())
"""


def digest(cache: Path) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("DIGEST"))


def test_a_first_run_gives_what_every_later_one_gives(tmp_path: Path) -> None:
    """In the process that compiles them, pieces that are not inlined are other code than in the saved kernels."""
    first = digest(tmp_path)
    assert list(tmp_path.rglob("*.nbc")), "the kernels were compiled and saved"
    assert digest(tmp_path) == first
