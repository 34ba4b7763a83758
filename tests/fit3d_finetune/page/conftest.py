"""Fine-tuned folders, with and without heads, and their pages."""

from __future__ import annotations

import pytest

from fit3d_finetune.page.features import Backbones, load_backbones
from tests.fit3d_finetune.page.folders import write_folder


@pytest.fixture(scope="package")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Backbones:
    """With heads of depth and normals."""
    return load_backbones(write_folder(tmp_path_factory.mktemp("page") / "finetuned"))


@pytest.fixture(scope="package")
def plain_backbones(tmp_path_factory: pytest.TempPathFactory) -> Backbones:
    """Without heads."""
    return load_backbones(write_folder(tmp_path_factory.mktemp("page") / "plain", heads=False))
