"""The demo without its training: every command takes its options, and its pictures are made of what these leave."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fit3d_finetune.backbone.geometry import GeometryHeads, GeometryReader
from fit3d_finetune.commands.finetune import parse
from fit3d_finetune.report.sheets import GAP, PANEL_WIDTH
from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.train import finetune
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, run_of, write_export
from tests.test_docs import PARSERS

EXAMPLES = Path(__file__).parent.parent / "examples"


def script(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of examples/, which writes into a folder of the test."""
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(folder / "cache"))
    monkeypatch.syspath_prepend(EXAMPLES)
    module = importlib.import_module(name)
    monkeypatch.setattr(module, "DEMO", folder / "demo")
    return module


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("demo", tmp_path, monkeypatch)


def test_the_commands_of_the_demo_take_their_options_and_keep_the_heads(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, ...]] = []

    def draw(finetuned: Path) -> None:
        raise SystemExit  # nothing is left to run

    monkeypatch.setattr(demo, "run", lambda *words: said.append(words))
    monkeypatch.setattr(demo, "draw", draw)
    monkeypatch.setattr(demo.shutil, "copyfile", lambda *_: None)
    with pytest.raises(SystemExit):
        demo.main()
    assert [words[0] for words in said] == ["fit3d-scenes", "fit3d-finetune", "fit3d-probe"]
    for name, *words in said:
        PARSERS[name](words)
    assert parse(list(said[1][1:])).keep_heads, shlex.join(said[1])


def test_the_demo_draws_what_a_view_taught_and_what_kept_heads_predict(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(demo.DEMO / "runs" / "room")
    scenes = find_scenes(demo.DEMO / "runs")
    folder = finetune(run_of(demo.DEMO / "finetuned", scenes, Recipe(depth_weight=1.0), keep_heads=True))
    monkeypatch.setattr(demo, "SHOWN_VIEW", 1)
    targets, predictions = (np.asarray(Image.open(path)) for path in demo.draw(folder))
    assert targets.shape == (2 * PANEL_WIDTH * 3 // 4 + GAP, 3 * PANEL_WIDTH + 2 * GAP, 3)
    rows, columns = demo.PHOTOS, 5
    assert predictions.shape == (rows * (PANEL_WIDTH * 3 // 4 + GAP) - GAP, columns * (PANEL_WIDTH + GAP) - GAP, 3)
    photos = predictions[: PANEL_WIDTH * 3 // 4, :PANEL_WIDTH], predictions[-PANEL_WIDTH * 3 // 4 :, :PANEL_WIDTH]
    assert (photos[0] != photos[1]).any()


def test_the_shown_view_is_one_of_the_rooms(demo: ModuleType) -> None:
    assert 0 <= demo.SHOWN_VIEW < len(list((EXAMPLES / "room" / "images").iterdir()))


def test_the_pictures_of_the_documentation_are_made_of_what_the_demo_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = script("pictures", tmp_path, monkeypatch)
    said: list[tuple[str, ...]] = []

    def load_geometry(folder: Path) -> GeometryReader:
        backbone = load_backbone(BACKBONE)
        return GeometryReader(backbone, GeometryHeads(backbone.embed_dim, depth=True, normals=True), 3.0)

    monkeypatch.setattr(pictures, "DOCS", tmp_path)
    monkeypatch.setattr(pictures, "WORK", tmp_path / "work")
    monkeypatch.setattr(pictures, "run", lambda *words: said.append(words))
    monkeypatch.setattr(pictures, "load_geometry", load_geometry)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "targets.png").write_bytes(b"drawn by the demo")
    pictures.main([tmp_path / "runs" / "room"])
    recipes = [parse(list(words[1:])).recipe for words in said]
    assert [recipe.teaches_geometry for recipe in recipes] == [False, False, True]
    assert "original: in the other room depth RMSE" in capsys.readouterr().out
    assert (tmp_path / "targets.png").read_bytes() == b"drawn by the demo"
    assert Image.open(tmp_path / "what_targets_change.png").width == 4 * PANEL_WIDTH + 3 * GAP


@pytest.mark.parametrize("name", ["room", "room_b", "room_c", "labelled_room", "other_room"])
def test_every_file_that_a_sample_room_names_is_there(name: str) -> None:
    folder = EXAMPLES / name
    transforms = json.loads((folder / "transforms.json").read_text())
    named = [frame[key] for frame in transforms["frames"] for key in frame if key.endswith("_path")]
    named += [transforms[key] for key in ("ply_file_path",) if key in transforms]
    assert len(transforms["frames"]) == 40
    assert [path for path in named if not (folder / path).is_file()] == []
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files - set(named) <= {"transforms.json", "classes.json"}, "nothing else takes up room"
