"""One fine-tuned folder that tests read, and a hub on this machine."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fit3d_finetune.finetuned import write_finetuned
from tests.fit3d_finetune.scenes import BACKBONE
from tests.fit3d_finetune.sharing.hub_server import FakeHub


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its features are those of the first block, so that tracing takes seconds."""
    return write_finetuned(tmp_path_factory.mktemp("shared") / "finetuned", dataclasses.replace(BACKBONE, layer=0))


@pytest.fixture
def finetuned(shared: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(shared, tmp_path / "finetuned"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Takes the token "good"; the client is the real one, without its second protocol for large files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with FakeHub() as server:
        yield server
