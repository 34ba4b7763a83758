"""Fixtures for the backbone's tests: a cache folder and a hub that belong to the test alone."""

from __future__ import annotations

from pathlib import Path

import pytest

# The smallest of timm's plain ViTs: 192 channels, 12 blocks, patches of 16 pixels.
TINY = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "fit3d-cache"))
    monkeypatch.delenv("FIT3D_BACKBONE_WEIGHTS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    # Port 9 (discard) refuses: no test may reach the real hub.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
