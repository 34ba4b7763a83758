"""fit3d-lift --dry-run: what it says, that it writes nothing, and that it refuses what a lifting refuses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from fit3d_ns.commands.lift import LiftArguments, run
from fit3d_ns.lifting.preview import per_view
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_finetune.scenes import write_export
from tests.trees import figures, listed


@pytest.fixture
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("given") / "runs" / "plane", views=8, count=4000)


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ({2: 3.0, 5: 6.0}, (1.0, 1.0)),
        ({1: 2.0}, (2.0, 0.0)),
        ({2: 3.0, 5: 2.0}, (0.0, 2.0)),
        ({2: 1.0, 5: 4.0}, (1.0, 0.0)),
    ],
)
def test_a_view_takes_what_more_views_take_longer(taken: dict[int, float], expected: tuple[float, float]) -> None:
    each, fixed = per_view(taken)
    assert (each, fixed) == pytest.approx((expected[0], max(0.0, expected[1])), abs=1e-9)


def test_a_dry_run_says_what_a_lifting_would_take_and_writes_nothing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    before = listed(tmp_path, exported)
    output = run(LiftArguments(export=exported, output_dir=tmp_path / "new" / "runs", dry_run=True))
    assert listed(tmp_path, exported) == before
    printed = capsys.readouterr().out
    said = figures(printed)
    scene = FeatureGaussians.load(exported).scene
    train = sum(view.split == "train" for view in scene.views)
    assert said["Views"] == f"{train} to lift from, {len(scene.views) - train} held out"
    assert re.match(r"0:0\d:", said[f"features of {len(scene.views)} images, 0 are in the cache"])
    assert {"Time", "Memory", "Disk", "Backbone"} <= said.keys()
    assert "no estimate" not in printed
    assert str(output) in said["Output"]

    run(LiftArguments(export=exported, output_dir=output.parent))
    size = sum(path.stat().st_size for path in output.iterdir())
    unit = 1e6 if "MB" in said["export"] else 1e9
    assert float(said["export"].split()[0]) * unit == pytest.approx(size, rel=0.3)
    capsys.readouterr()
    run(LiftArguments(export=exported, output_dir=tmp_path / "other", dry_run=True))
    assert f"features of 0 images, {len(scene.views)} are in the cache: 0:00:00" in capsys.readouterr().out


def test_a_dry_run_refuses_what_a_lifting_refuses(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    shutil.copytree(exported, tmp_path / "lame" / exported.name)
    (tmp_path / "lame" / exported.name / "gaussians.safetensors").write_bytes(b"cut")
    for wrong in (
        {"export": exported, "output_dir": tmp_path / "file"},
        {"export": exported, "feature_dim": 0},
        {"export": tmp_path / "lame" / exported.name},
        {"export": exported, "output_dir": exported.parent},
    ):
        said = []
        for dry_run in (False, True):
            with pytest.raises(SystemExit) as stop:
                run(LiftArguments(**{"output_dir": tmp_path / "out", **wrong}, dry_run=dry_run))  # type: ignore[arg-type]
            assert stop.value.code == 2
            said.append(capsys.readouterr().err)
        assert said[0] == said[1] != ""
