"""A cache of features and a tiny labelled, posed scene for each test that asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fit3d_finetune.probing.scenes import write_scene


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of cached features, empty at first."""
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Six posed views of 64x48 pixels with depth and labels of three classes."""
    return write_scene(tmp_path / "scene")
