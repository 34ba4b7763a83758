"""The world that is spoiled: one small good example of everything that a command reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bad_input.catalogue import RUN, Refused, check
from tests.fit3d_finetune.finetuned import write_finetuned
from tests.fit3d_finetune.page.folders import write_photo
from tests.fit3d_finetune.probing.scenes import write_scene
from tests.fit3d_finetune.probing.test_results import make_results
from tests.fit3d_finetune.scenes import write_export
from tests.fit3d_ns.method.colmap_model import write_colmap_model
from tests.scenes import write_capture

FIXTURES = Path(__file__).parents[1] / "fixtures" / "release_0_1"


@pytest.fixture
def refused(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a case in a folder of its own, and checks that it is refused as it must be; see `check`."""
    return lambda case: check(case, world, tmp_path, monkeypatch, capfd)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """room/ and other_room/ (labels and depth), runs/{attic,barn}, finetuned/, control/, capture/, colmap/, photos/,
    outputs/…/run (config.yml and a checkpoint)."""
    world = tmp_path_factory.mktemp("world")
    write_scene(world / "room")
    write_scene(world / "other_room", seed=1)
    for seed, name in enumerate(("attic", "barn")):
        write_export(world / "runs" / name, seed=seed)
    for name in ("finetuned", "control"):
        write_finetuned(world / name)
    shutil.copytree(FIXTURES / "capture", world / "capture")
    write_colmap_model(write_capture(world / "colmap", views=4))
    (world / "colmap" / "transforms.json").unlink()
    for index in range(4):
        write_photo(world / "photos" / f"{index}.jpg", 80, 60, index)
    shutil.copytree(FIXTURES / "run", world / RUN)
    (world / "probe").mkdir()
    make_results().save(world / "probe" / "results.json")
    return world
