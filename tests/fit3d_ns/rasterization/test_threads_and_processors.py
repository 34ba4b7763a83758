"""The same picture from any number of threads, and on a processor with narrower vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

RENDER = """
import sys, numpy as np, torch
from fit3d_ns.rasterization import rasterization
from tests.fit3d_ns.rasterization.scenes import leaves, random_scene
arrays = {}
for channels in (3, 70):
    scene = leaves(random_scene(400, seed=2, channels=channels), ("means", "opacities", "colors"))
    image, alpha, _ = rasterization(**scene)
    (image.square().sum() + alpha.sum()).backward()
    arrays[f"image{channels}"] = image.detach()
    for name in ("means", "opacities", "colors"):
        arrays[f"{name}{channels}"] = scene[name].grad
np.savez(sys.argv[1], **arrays)
"""


def render(path: Path, **environment: str) -> dict[str, np.ndarray]:
    """Images and gradients as a fresh process makes them."""
    subprocess.run([sys.executable, "-c", RENDER, str(path)], env={**os.environ, **environment}, check=True)
    return dict(np.load(path))


def agree(a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float) -> bool:
    return all(np.abs(a[name] - b[name]).max() <= tolerance * np.abs(b[name]).max() for name in b)


def test_images_are_the_same_bits_from_any_number_of_threads(tmp_path: Path) -> None:
    one = render(tmp_path / "one.npz", NUMBA_NUM_THREADS="1")
    for threads in ("2", "5"):
        more = render(tmp_path / f"{threads}.npz", NUMBA_NUM_THREADS=threads)
        assert all(np.array_equal(more[name], one[name]) for name in one if name.startswith("image"))
        # Gradients are summed per thread: in another order, but in the same one every time.
        assert agree(more, one, 1e-5)
        again = render(tmp_path / "again.npz", NUMBA_NUM_THREADS=threads)
        assert all(np.array_equal(again[name], more[name]) for name in more)


@pytest.mark.slow
def test_a_processor_with_narrower_vectors_renders_the_same(tmp_path: Path) -> None:
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma", "NUMBA_CACHE_DIR": str(tmp_path)}
    here, there = render(tmp_path / "here.npz"), render(tmp_path / "there.npz", **narrow)
    assert agree(there, here, 1e-5)
