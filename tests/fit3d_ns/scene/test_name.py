"""Names of scenes are folder names and nothing more, by whatever way they come."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.name import require_scene_name
from tests.fit3d_ns.scene.scenes import make_gaussians

GOOD = [
    *("room", "room_01", "Room 2", "a.b-c", "2024-06-01", "x" * 255, "-", "a..b", "_", "Küche", "台所"),
    unicodedata.normalize("NFD", "Küche"),
]
BAD = [
    *("", ".", "..", ".hidden", "a/b", "../x", "/etc", "a\\b", "a\0b", "a\nb", "x" * 256, "é" * 128, "~", "$HOME"),
    *("a:b", "C:", "a*", "a|b", "a;b", " ", " a", "a ", "a\u202eb", "a\u200bb", "a\u2044b", "\ud800", "a\u00a0b"),
]


@pytest.mark.parametrize("name", GOOD)
def test_a_plain_folder_name_is_a_scenes_name(name: str, tmp_path: Path) -> None:
    assert require_scene_name(name, "--name", "give another") == name
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_not(name: str) -> None:
    with pytest.raises(InputError, match=r"^--name is .*; give another\.$") as error:
        require_scene_name(name, "--name", "give another")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", BAD)
def test_an_export_of_another_name_is_not_read(name: str, tmp_path: Path) -> None:
    make_gaussians(tmp_path / "capture").save(tmp_path / "runs/room")
    path = tmp_path / "runs/room/scene.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "scene": name}))
    with pytest.raises(InputError, match=r"scene\.json(: 'scene' is | is not valid JSON .*no Unicode)"):
        FeatureGaussians.load(tmp_path / "runs/room")
