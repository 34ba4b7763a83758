"""fit3d-scenes: what is done before leaves them alone, and two tiny scenes from photos to exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fit3d_ns.commands import scenes
from fit3d_ns.commands.scenes import ScenesArguments, make_plan, run
from fit3d_ns.common.cores import usable_cores
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.kept_rates import keep_rate, kept_rates
from fit3d_ns.scheduling.plan import Plan, Status
from fit3d_ns.scheduling.worker import RATES, comparable
from tests.fit3d_finetune.scenes import write_export
from tests.trees import figures, listed


class Engine:
    """Does nothing but remember."""

    gpus, described = 0.0, "in a test"

    def __init__(self, jobs: int | None) -> None:
        self.given: list[str] = []
        engines.append(self)

    def run(self, plan: Plan, names: list[str]) -> None:
        self.given += names
        for name in names:
            failed = name == "bad"
            Status(name, "failed" if failed else "done", fault="no photos" if failed else "").save(plan)


engines: list[Engine] = []


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    engines.clear()
    monkeypatch.setattr("fit3d_ns.scheduling.local.LocalEngine", Engine)
    monkeypatch.setattr(scenes, "REFRESH", 0.01)
    return engines


def arguments(folder: Path, *names: str, **options: object) -> ScenesArguments:
    captures = [folder / "captures" / name for name in names]
    for capture in captures:
        capture.mkdir(parents=True, exist_ok=True)
    return ScenesArguments(tuple(captures), folder / "runs", folder / "work", **options)  # type: ignore[arg-type]


def test_scenes_with_an_export_are_skipped_and_one_that_fails_is_reported(tmp_path: Path, engine: list[Engine]) -> None:
    write_export(tmp_path / "runs" / "done")
    statuses = run(arguments(tmp_path, "done", "new", "bad"))
    assert engine[0].given == ["new", "bad"]
    assert [(status.scene, status.state, status.found) for status in statuses] == [
        ("done", "done", True),
        ("new", "done", False),
        ("bad", "failed", False),
    ]
    summary = json.loads((tmp_path / "runs" / "scenes.json").read_text())
    assert [scene["state"] for scene in summary["scenes"]] == ["done", "done", "failed"]
    assert summary["scenes"][0]["figures"]["gaussians"] == 400


def test_an_export_of_another_capture_is_no_finished_one(tmp_path: Path, engine: list[Engine]) -> None:
    write_export(tmp_path / "runs" / "room")
    shutil.move(tmp_path / "runs" / "room", tmp_path / "runs" / "hall")
    with pytest.raises(InputError, match=r"hall is the export of another capture, .*room: give another --output-dir"):
        run(arguments(tmp_path, "hall"))


def test_a_folder_that_is_no_export_is_never_replaced(tmp_path: Path, engine: list[Engine]) -> None:
    (tmp_path / "runs" / "room").mkdir(parents=True)
    (tmp_path / "runs" / "room" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="fit3d did not write"):
        run(arguments(tmp_path, "room"))
    assert engine == []


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"jobs": 0}, "--jobs must be at least 1, not 0"),
        ({"train_options": "--name 'x"}, "--train-options .* cannot be split into words"),
        ({"gpus_per_scene": 0.5}, "--gpus-per-scene is an option of --engine ray and slurm"),
        ({"engine": "ray", "jobs": 2}, "--jobs is an option of --engine local and slurm"),
        ({"engine": "ray", "gpus_per_scene": -1.0}, "--gpus-per-scene must be at least 0"),
        ({"engine": "slurm", "cpus_per_scene": 0}, "--cpus-per-scene must be at least 1"),
        ({"engine": "slurm", "gpus_per_scene": 0.5}, "Slurm gives whole GPUs"),
        ({"engine": "slurm", "slurm_options": "gpu"}, "'gpu' is not KEY=VALUE"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, object], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        run(arguments(tmp_path, "room", **options))


@pytest.mark.parametrize(("gpus", "method"), [(0.0, "fit3d-features-fast"), (0.5, "fit3d-features")])
def test_the_method_is_for_the_machines_that_train(
    tmp_path: Path, engine: list[Engine], monkeypatch: pytest.MonkeyPatch, gpus: float, method: str
) -> None:
    monkeypatch.setattr(Engine, "gpus", gpus)
    run(arguments(tmp_path, "new"))
    assert json.loads((tmp_path / "runs" / "scenes.json").read_text())["method"] == method


def test_captures_must_be_there_and_have_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--scenes is empty"):
        make_plan(arguments(tmp_path))
    with pytest.raises(InputError, match="nowhere is not there"):
        make_plan(ScenesArguments((tmp_path / "nowhere",)))
    (tmp_path / "other" / "room").mkdir(parents=True)
    twice = arguments(tmp_path, "room")
    with pytest.raises(InputError, match="have the same name: rename one"):
        make_plan(ScenesArguments((*twice.scenes, tmp_path / "other" / "room"), twice.output_dir, twice.work_dir))


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_two_tiny_scenes_from_photos_to_exports_and_a_broken_one(tiny_capture: Path, tmp_path: Path) -> None:
    captures = [tmp_path / name for name in ("one", "broken", "two")]
    for capture in captures:
        shutil.copytree(tiny_capture, capture)
    (captures[1] / "transforms.json").write_text("{}")
    given = ScenesArguments(
        tuple(captures), tmp_path / "runs", tmp_path / "work", jobs=2,
        train_options="--max-num-iterations 20 --pipeline.datamanager.backbone.name test_vit "
        "--pipeline.datamanager.backbone.weights random --pipeline.datamanager.backbone.layer 3",
    )  # fmt: skip
    statuses = run(given)
    assert [status.state for status in statuses] == ["done", "failed", "done"], statuses
    assert statuses[1].attempt == 1
    assert "transforms.json" in statuses[1].fault
    assert statuses[0].figures["psnr"] > 5
    assert (tmp_path / "runs/one/scene.json").is_file()
    again = run(given)
    assert [status.found for status in again] == [True, False, True]
    assert again[0].figures == statuses[0].figures


def test_a_dry_run_goes_by_scenes_before_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    write_export(tmp_path / "runs" / "done")
    given = arguments(tmp_path, "done", "a", "b", "c", jobs=2, method="fit3d-features-fast", dry_run=True)
    before = listed(tmp_path)
    assert run(given) == []
    assert listed(tmp_path) == before
    said = figures(capsys.readouterr().out)
    assert said["Scenes"] == "3 to train, measure and export; 1 are exported already"
    assert said["Time"] == said["Disk"] == "no estimate"
    assert "on this machine yet: let one end" in said["3 scenes, 2 at a time on this machine"]

    taken = {"views": 40, "memory": 2e9, "export_bytes": 3e8, "run_bytes": 1e9}
    for seconds in (100.0, 140.0):
        keep_rate(RATES, **comparable(make_plan(given), max(1, usable_cores() // 2)), seconds=seconds, **taken)
    run(given)
    said = figures(capsys.readouterr().out)
    assert said["Time"] == "0:04:00 in all", "two rounds of two minutes"
    assert said["Memory"].startswith("4.0 GB at most")
    assert said["exports"].startswith("0.90 GB")
    assert said["runs"].startswith("3.00 GB")
    assert (
        "0:01:40 to 0:02:20, measured on 2 scenes before, with 40 views"
        in said["3 scenes, 2 at a time on this machine"]
    )
    assert len(kept_rates(RATES)) == 2
