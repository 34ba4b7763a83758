"""An export replaces an export and nothing else, and another export only when it is told to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fit3d_ns.common.errors import InputError
from fit3d_ns.lifting.scene import REPORT_FILE
from fit3d_ns.method.export import PREVIEW_FILE
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.place import EXPORT_FILES, not_an_export, require_export_place
from tests.fit3d_ns.scene.scenes import make_gaussians


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): os.readlink(path).encode()
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else b"folder"
        for path in folder.rglob("*")
    }


def a_file(path: Path) -> None:
    path.write_text("a user's")


def photos(path: Path) -> None:
    path.mkdir()
    (path / "1.jpg").write_text("a user's")


def an_empty_folder(path: Path) -> None:
    path.mkdir()


def a_link_to_an_export(path: Path) -> None:
    make_gaussians(path.parent / "capture", seed=3).save(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


def another_programs_scene(path: Path) -> None:
    path.mkdir()
    (path / "scene.json").write_text(json.dumps({"scene": "room", "meshes": [], "format_version": 1}))


def a_linked_scene_file(path: Path) -> None:
    make_gaussians(path.parent / "capture", seed=3).save(path.parent / "elsewhere")
    path.mkdir()
    (path / "scene.json").symlink_to("../elsewhere/scene.json")


def an_export_with_notes(path: Path) -> None:
    make_gaussians(path.parent / "capture").save(path)
    (path / "notes.txt").write_text("a user's")


def an_export_with_a_folder_of_photos(path: Path) -> None:
    make_gaussians(path.parent / "capture").save(path)
    (path / "previews.png").mkdir()
    (path / "previews.png" / "1.jpg").write_text("a user's")


def an_export_with_a_link(path: Path) -> None:
    make_gaussians(path.parent / "capture").save(path)
    (path / "splat.ply").unlink()
    (path / "splat.ply").symlink_to("/etc/hostname")


VICTIMS: list[Callable[[Path], None]] = [
    *(a_file, photos, an_empty_folder, a_link_to_an_export, another_programs_scene, a_linked_scene_file),
    *(an_export_with_notes, an_export_with_a_folder_of_photos, an_export_with_a_link),
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("victim", VICTIMS)
def test_what_fit3d_did_not_write_is_never_replaced(
    tmp_path: Path, victim: Callable[[Path], None], overwrite: bool
) -> None:
    new = make_gaussians(tmp_path / "capture", seed=2)
    victim(tmp_path / "room")
    before = everything(tmp_path)
    with pytest.raises(InputError, match=r"room (is|holds) .*nothing of it was touched"):
        new.save(tmp_path / "room", overwrite=overwrite)
    with pytest.raises(InputError, match=r"room (is|holds) .*nothing of it was touched"):
        require_export_place(tmp_path, "room")
    assert everything(tmp_path) == before


def test_an_equal_export_is_written_again_and_another_only_when_told_to(tmp_path: Path) -> None:
    first, second = (make_gaussians(tmp_path / "capture", seed=seed) for seed in (1, 2))
    first.save(tmp_path / "room")
    first.save(tmp_path / "room", extra_files={PREVIEW_FILE: b"new"})
    assert (tmp_path / "room" / PREVIEW_FILE).read_bytes() == b"new"
    before = everything(tmp_path)
    for other in (second, first.stored_as("int8"), make_gaussians(tmp_path / "capture", seed=1, feature_dim=9)):
        with pytest.raises(InputError, match="--overwrite"):
            other.save(tmp_path / "room")
        assert everything(tmp_path) == before
    second.save(tmp_path / "room", overwrite=True)
    assert (FeatureGaussians.load(tmp_path / "room").means == second.means).all()
    assert not (tmp_path / "room" / PREVIEW_FILE).exists()


def test_a_damaged_export_is_replaced_when_told_to(tmp_path: Path) -> None:
    scene = make_gaussians(tmp_path / "capture")
    scene.save(tmp_path / "room")
    (tmp_path / "room/gaussians.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="--overwrite"):
        scene.save(tmp_path / "room")
    scene.save(tmp_path / "room", overwrite=True)
    FeatureGaussians.load(tmp_path / "room")


def test_an_export_of_a_later_format_is_ours_all_the_same(tmp_path: Path) -> None:
    make_gaussians(tmp_path / "capture").save(tmp_path / "room")
    path = tmp_path / "room/scene.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99, "more": 1}))
    assert not_an_export(tmp_path / "room") is None


def test_all_that_the_commands_write_counts_as_ours() -> None:
    assert {PREVIEW_FILE, REPORT_FILE} <= EXPORT_FILES


def test_a_place_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    assert require_export_place(tmp_path / "runs", "room") == tmp_path / "runs/room"
    assert everything(tmp_path) == {}
    with pytest.raises(InputError, match="too long"):
        require_export_place(tmp_path / "runs", "x" * 256)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"):
        require_export_place(tmp_path / "file", "room")


def test_loading_puts_right_what_a_killed_program_left(tmp_path: Path) -> None:
    scene = make_gaussians(tmp_path / "capture")
    scene.save(tmp_path / "runs/room")
    process = os.fork()
    if process == 0:
        from fit3d_ns.common.temporaries import temporaries

        with temporaries(tmp_path / "runs/room") as names:
            names.old.mkdir()
            os.rename(tmp_path / "runs/room", names.old / "room")
            os._exit(9)
    os.waitpid(process, 0)
    assert not (tmp_path / "runs/room").exists()
    assert (FeatureGaussians.load(tmp_path / "runs/room").means == scene.means).all()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["room"]
