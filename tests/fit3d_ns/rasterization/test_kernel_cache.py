"""Compiled kernels on disk belong to the sources they were made from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fit3d_ns
from fit3d_ns.rasterization import kernel_cache
from fit3d_ns.rasterization.kernel_cache import drop_stale, kernel_sources, sources_digest

ROOT = Path(fit3d_ns.__file__).parents[1]

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


KERNELS = sorted(
    str(path.relative_to(ROOT)) for package in ("fit3d_ns", "fit3d_finetune") for path in kernel_sources(ROOT / package)
)


def digest_of(root: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> str:
    monkeypatch.setattr(kernel_cache, "_ROOT", root)
    sources_digest.cache_clear()
    try:
        return sources_digest(package)
    finally:
        sources_digest.cache_clear()


def test_the_kernels_of_both_packages_are_known() -> None:
    holders = {
        str(path.relative_to(ROOT))
        for package in ("fit3d_ns", "fit3d_finetune")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^(from|import) (numba|llvmlite)\b", path.read_text(), re.MULTILINE)
    }
    assert holders == set(KERNELS), "what Numba compiles stands in a file whose name begins with one underscore"
    assert "fit3d_finetune/probing/_kernels.py" in KERNELS
    assert len(KERNELS) > 10


@pytest.mark.parametrize("changed", KERNELS)
def test_touching_any_kernel_changes_the_digest(changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KERNELS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    package = changed.partition("/")[0]
    before = digest_of(tmp_path, monkeypatch, package)
    assert before == digest_of(ROOT, monkeypatch, package)
    with open(tmp_path / changed, "a") as source:
        source.write("# changed")
    assert digest_of(tmp_path, monkeypatch, package) != before
    if package == "fit3d_ns":
        # Kernels of fit3d_finetune may inline ours.
        assert digest_of(tmp_path, monkeypatch, "fit3d_finetune") != digest_of(ROOT, monkeypatch, "fit3d_finetune")


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
