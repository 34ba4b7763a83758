"""What both backbones see in a photo, and what the kept heads read from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fit3d_finetune
from fit3d_finetune.backbone.geometry import HEADS_FILE, load_geometry
from fit3d_finetune.page.features import load_backbones, see
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.page.folders import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("page") / "finetuned")


@pytest.mark.parametrize(("size", "grid"), [((48, 128), (3, 8)), ((130, 50), (8, 3)), ((64, 64), (4, 4))])
def test_features_are_those_of_the_assembly(folder: Path, size: tuple[int, int], grid: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    seen = see(load_backbones(folder), image)
    with torch.no_grad():
        both = fit3d_finetune.load(folder)(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0]
    assert seen.grid == grid
    torch.testing.assert_close(torch.cat(seen.maps, dim=-1), both.permute(1, 2, 0))
    assert not seen.original.allclose(seen.finetuned, atol=0.1)


def test_depth_and_normals_are_those_of_the_kept_heads(folder: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    seen, reader = see(load_backbones(folder), image), load_geometry(folder)
    images = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    assert seen.depth == pytest.approx(reader.depth(images)[0].numpy(), rel=1e-4)
    assert seen.normals == pytest.approx(reader.normals(images)[0].numpy(), abs=1e-4)


def test_without_heads_there_is_a_reason(tmp_path: Path) -> None:
    backbones = load_backbones(write_folder(tmp_path / "plain", heads=False))
    assert "--keep-heads" in backbones.no_geometry
    seen = see(backbones, np.zeros((48, 80, 3), dtype=np.uint8))
    assert seen.depth is None
    assert seen.normals is None


def test_heads_that_cannot_be_read_are_a_reason_too(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "broken")
    (folder / HEADS_FILE).write_bytes(b"no heads")
    assert "is damaged" in load_backbones(folder).no_geometry


def test_what_is_no_fine_tuned_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a fine-tuned backbone"):
        load_backbones(tmp_path)
