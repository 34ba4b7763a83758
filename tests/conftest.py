"""Shared set-up of all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.object_storage import credentials, make_bucket, s3_server


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's feature cache, nor follow the user's choice of weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIT3D_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("FIT3D_BACKBONE_WEIGHTS", raising=False)
        yield


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device: torch.cuda.is_available() is False")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def tiny_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten views of 112x84 pixels with 1500 seed points."""
    from tests.scenes import write_capture

    return write_capture(tmp_path_factory.mktemp("tiny") / "scene")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 server on this machine."""
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """s3://… of an empty bucket, with the environment that reaches it."""
    for name, value in credentials(s3).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{abs(hash(request.node.nodeid))}"
    make_bucket(s3, name)
    return f"s3://{name}"
