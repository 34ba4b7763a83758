"""Compiled kernels on disk belong to the sources they were made from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fit3d_ns
from fit3d_ns.rasterization.kernel_cache import drop_stale, sources_digest

PROGRAM = """
import pytest

import fit3d_ns
from fit3d_ns.rasterization.kernel_cache import load_kernels
import numpy as np
kernels = load_kernels("fit3d_ns.rasterization._binning_kernels")
kernels.exclusive_sum(np.ones(3, np.int32))
print(sum(kernels.exclusive_sum.stats.cache_hits.values()), kernels.exclusive_sum._cache.cache_path)
"""


def test_kernels_of_other_sources_are_forgotten_and_those_of_these_are_kept(tmp_path: Path) -> None:
    kernel, other = tmp_path / "_blend_kernels.blend-1.py311.nbi", tmp_path / "notes.txt"
    for path in (kernel, other):
        path.write_text("x")
    drop_stale(tmp_path, "first")
    assert not kernel.exists()
    assert other.exists()
    kernel.write_text("x")
    drop_stale(tmp_path, "first")
    assert kernel.exists()
    drop_stale(tmp_path, "second")
    assert not kernel.exists()


@pytest.mark.parametrize("changed", ["_lifting_kernels.py", "rasterization/_microkernels.py"])
def test_the_digest_follows_every_source_that_kernels_are_made_of(changed: str, tmp_path: Path) -> None:
    package = Path(fit3d_ns.__file__).parent
    for path in package.rglob("_*.py"):
        copy = tmp_path / path.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    sources_digest.cache_clear()
    assert sources_digest(tmp_path) == sources_digest()
    with open(tmp_path / changed, "a") as source:
        source.write("# changed")
    sources_digest.cache_clear()
    assert sources_digest(tmp_path) != sources_digest()


def test_a_second_process_uses_what_the_first_compiled_unless_the_sources_changed(tmp_path: Path) -> None:
    def run() -> tuple[int, Path]:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        hits, folder = done.stdout.split()
        return int(hits), Path(folder)

    assert run()[0] == 0
    hits, folder = run()
    assert hits == 1
    (folder / "fit3d-kernels.sha256").write_text("made from other sources")
    assert run()[0] == 0
