"""Compiled kernels on disk belong to the sources they were made from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
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


SLOW_KERNELS = """
import numba


@numba.njit(cache=True)
def inner(x):
    return x + 1


@numba.njit(cache=True)
def outer(x):
    return inner(x) * 2
"""

COMPILING = """
import sys
import time

import fit3d_ns.rasterization.threads
from fit3d_ns.rasterization import kernel_cache

kernel_cache.sources_digest = lambda package: "one"
sys.path.insert(0, sys.argv[1])
kernels = kernel_cache.load_kernels("slow_kernels")
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
assert kernels.outer(20) == 42
print(sum(kernels.outer.stats.cache_misses.values()), sum(kernels.outer.stats.cache_hits.values()))
"""


def test_of_processes_that_start_at_once_one_compiles_and_the_others_take_it(tmp_path: Path) -> None:
    (tmp_path / "slow_kernels.py").write_text(SLOW_KERNELS)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    words = [sys.executable, "-c", COMPILING, str(tmp_path), str(time.time() + 15.0)]
    running = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(said) == [["0", "1"], ["0", "1"], ["1", "0"]], "misses and hits of each"


def test_where_no_lock_can_be_had_kernels_are_compiled_all_the_same(tmp_path: Path) -> None:
    lock = kernel_cache.CompileLock(tmp_path / "there is no such folder")
    assert lock.around(lambda x: x + 1)(1) == 2


def test_a_kernel_within_another_does_not_wait_for_itself(tmp_path: Path) -> None:
    lock = kernel_cache.CompileLock(tmp_path)
    inner = lock.around(lambda: 1)
    assert lock.around(lambda: inner() + 1)() == 2
    assert inner() == 1, "and it was let go"
