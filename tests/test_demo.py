"""The demo without its training: every command takes its options, and its pictures are made of what these leave."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fit3d_finetune.commands.finetune import parse
from fit3d_finetune.report.sheets import GAP, PANEL_WIDTH
from fit3d_finetune.targets.scenes import find_scenes
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.train import finetune
from tests.fit3d_finetune.scenes import run_of, write_export
from tests.test_docs import PARSERS

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """examples/demo.py, which writes into a folder of the test."""
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    specification = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "DEMO", tmp_path / "demo")
    return module


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
    ours = [words for words in said if words[0] in PARSERS]
    assert [words[0] for words in ours] == ["fit3d-export", "fit3d-finetune", "fit3d-probe"]
    for name, *words in ours:
        PARSERS[name](words)
    assert parse(list(ours[1][1:])).keep_heads, shlex.join(ours[1])


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
