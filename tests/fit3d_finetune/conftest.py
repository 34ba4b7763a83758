"""Exports that tests may read but not change, and a cache of targets for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.targets.scenes import Scene
from tests.fit3d_finetune.scenes import write_export


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the targets' files."""
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "targets"


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/ with two scenes of four training views and one held-out view each."""
    runs = tmp_path_factory.mktemp("exports") / "runs"
    for seed, name in enumerate(("attic", "barn")):
        write_export(runs / name, seed=seed)
    return runs


@pytest.fixture(scope="session")
def scenes(exports: Path) -> list[Scene]:
    return find_scenes(exports)
