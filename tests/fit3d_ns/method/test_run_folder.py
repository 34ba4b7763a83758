"""A run is found from its config.yml, wherever the command is started, and never another one instead."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from fit3d_ns.commands.export import ExportArguments, run
from fit3d_ns.commands.lift import BackboneChoice, LiftArguments
from fit3d_ns.commands.lift import run as lift
from fit3d_ns.common.errors import InputError
from fit3d_ns.method.export import export_run
from fit3d_ns.method.run_folder import started_in
from fit3d_ns.method.runs import read_config
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_ns.method.runs import make_config, make_trainer
from tests.scenes import write_capture

RUN = Path("outputs/tiny/fit3d-features-fast/run")


def train_in(folder: Path, shift: float) -> Path:
    """A run with relative paths, as by `cd folder; ns-train ... --data data/room`; returns its config.yml."""
    config = make_config(write_capture(folder / "data/room"), folder / "outputs", steps=2)
    trainer = make_trainer(config)
    with torch.no_grad():
        trainer.pipeline.model.gauss_params["means"].add_(shift)
    trainer.save_checkpoint(1)
    # Written so afterwards: nerfstudio's TensorBoard writer would go on by relative paths in the tests to come.
    config.output_dir = Path("outputs")
    config.data = config.pipeline.datamanager.data = Path("data/room")
    config.pipeline.datamanager.dataparser.data = Path()
    (folder / RUN / "config.yml").write_text(yaml.dump(config))
    return folder / RUN / "config.yml"


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of the same names, in two folders."""
    folder = tmp_path_factory.mktemp("two")
    return train_in(folder / "a", 0.01), train_in(folder / "b", 0.02)


@pytest.fixture(scope="module")
def exported(two_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureGaussians]:
    """Each from its own folder, as release 0.1 could do."""
    found, before = {}, Path.cwd()
    for config in two_runs:
        home = config.parents[4]
        os.chdir(home)
        try:
            made = export_run(config.relative_to(home), tmp_path_factory.mktemp("runs"), previews=0)
        finally:
            os.chdir(before)
        found[home.name] = FeatureGaussians.load(made)
    return found


def equal(one: FeatureGaussians, other: FeatureGaussians) -> bool:
    same = [torch.equal(getattr(one, name), getattr(other, name)) for name in ("means", "features", "sh")]
    return all(same) and one.scene.to_json() == other.scene.to_json()


@pytest.mark.parametrize("start", ["elsewhere", "the other run's folder", "its own folder", "the run itself"])
def test_an_export_is_that_of_its_own_run_from_any_working_folder(
    two_runs: tuple[Path, Path],
    exported: dict[str, FeatureGaussians],
    start: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = two_runs
    folders = {
        "elsewhere": tmp_path,
        "the other run's folder": b.parents[4],
        "its own folder": a.parents[4],
        "the run itself": a.parent,
    }
    monkeypatch.chdir(folders[start])
    made = export_run(Path(os.path.relpath(a)), tmp_path / "runs", previews=0)
    assert equal(FeatureGaussians.load(made), exported["a"])
    assert not torch.equal(exported["a"].means, exported["b"].means)


def test_lifting_takes_the_run_it_was_given_from_any_working_folder(
    two_runs: tuple[Path, Path],
    exported: dict[str, FeatureGaussians],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = two_runs
    monkeypatch.chdir(b.parents[4])
    tiny = BackboneChoice(name="vit_tiny_patch16_224", weights="random")
    made = FeatureGaussians.load(lift(LiftArguments(load_config=a, output_dir=tmp_path / "runs", backbone=tiny)))
    assert torch.equal(made.means, exported["a"].means)
    assert Path(made.scene.images_root) == a.parents[4] / "data/room"


def test_all_finds_runs_from_any_working_folder(
    two_runs: tuple[Path, Path],
    exported: dict[str, FeatureGaussians],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run(ExportArguments(all=two_runs[0].parents[3], output_dir=Path("runs"), previews=0))
    assert equal(FeatureGaussians.load(tmp_path / "runs/tiny"), exported["a"])


def test_a_run_that_was_moved_with_its_capture_is_found(
    two_runs: tuple[Path, Path], exported: dict[str, FeatureGaussians], tmp_path: Path
) -> None:
    home = tmp_path / "moved"
    shutil.copytree(two_runs[0].parents[4], home)
    made = FeatureGaussians.load(export_run(home / RUN / "config.yml", tmp_path / "runs", previews=0))
    assert torch.equal(made.means, exported["a"].means)
    assert Path(made.scene.images_root) == home / "data/room"


def test_without_its_capture_the_working_folders_is_taken_and_said(
    two_runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "moved"
    shutil.copytree(two_runs[0].parents[4] / "outputs", home / "outputs")
    said: list[str] = []
    monkeypatch.setattr("fit3d_ns.method.run_folder.logger.warning", lambda text, *values: said.append(text % values))
    monkeypatch.chdir(two_runs[0].parents[4])
    config = read_config(home / RUN / "config.yml")
    assert config.pipeline.datamanager.data == two_runs[0].parents[4] / "data/room"
    assert any("data/room" in line and str(home) in line for line in said)
    monkeypatch.chdir(tmp_path)
    assert read_config(home / RUN / "config.yml").pipeline.datamanager.data == home / "data/room"


@pytest.mark.parametrize(
    ("output_dir", "place", "expected"),
    [
        ("outputs", "/x/outputs/tiny/m/t", "/x"),
        ("./outputs/", "/x/outputs/tiny/m/t", "/x"),
        ("a/b", "/x/a/b/tiny/m/t", "/x"),
        (".", "/x/tiny/m/t", "/x"),
        ("outputs", "/outputs/tiny/m/t", "/"),
        ("a/../outputs", "/x/outputs/tiny/m/t", "/x"),
        ("../outputs", "/x/outputs/tiny/m/t", None),
        ("/x/outputs", "/x/outputs/tiny/m/t", None),
        ("outputs", "/x/renamed/tiny/m/t", None),
        ("outputs", "/x/outputs/other/m/t", None),
        ("outputs", "/t", None),
    ],
)
def test_where_training_was_started_follows_from_where_config_lies(
    output_dir: str, place: str, expected: str | None, tmp_path: Path
) -> None:
    config = make_config(tmp_path, Path(output_dir), steps=1)
    config.method_name, config.timestamp = "m", "t"
    found = started_in(Path(place) / "config.yml", config)
    assert found == (None if expected is None else Path(expected))


def test_paths_of_weights_and_caches_start_from_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for weights in ("weights.pth", "local-dir:tuned", "random", "/absolute.pth"):
        config = make_config(Path("data"), Path("outputs"), steps=1)
        config.pipeline.datamanager.feature_cache_dir = Path("cache")
        object.__setattr__(config.pipeline.datamanager.backbone, "weights", weights)
        monkeypatch.chdir(home)
        config.save_config()
        monkeypatch.chdir(tmp_path)
        manager = read_config(home / RUN / "config.yml").pipeline.datamanager
        assert manager.feature_cache_dir == home / "cache"
        expected = {"weights.pth": f"{home}/weights.pth", "local-dir:tuned": f"local-dir:{home}/tuned"}
        assert manager.backbone.weights == expected.get(weights, weights)


def test_other_files_among_the_checkpoints_are_neither_read_nor_deleted(
    two_runs: tuple[Path, Path], exported: dict[str, FeatureGaussians], tmp_path: Path
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(two_runs[0].parents[4], home)
    models = home / RUN / "nerfstudio_models"
    for name in ("best.ckpt", "step-last.ckpt", "notes.txt", "step-000000009.ckpt.part"):
        (models / name).write_text("a user's")
    made = FeatureGaussians.load(export_run(home / RUN / "config.yml", tmp_path / "runs", previews=0))
    assert torch.equal(made.means, exported["a"].means)

    trainer = make_trainer(make_config(home / "data/room", home / "outputs", steps=2))
    trainer.save_checkpoint(5)
    assert sorted(path.name for path in models.iterdir()) == [
        *("best.ckpt", "notes.txt", "step-000000005.ckpt", "step-000000009.ckpt.part", "step-last.ckpt"),
    ]


def test_a_half_written_checkpoint_of_a_dead_run_is_swept_by_whoever_reads_the_run(
    two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    from fit3d_ns.common.temporaries import temporaries

    home = tmp_path / "copy"
    shutil.copytree(two_runs[0].parents[4], home)
    before = sorted(path.name for path in (home / RUN).iterdir())
    process = os.fork()
    if process == 0:
        with temporaries(home / RUN / "step-000000007.ckpt") as names:
            names.new.write_bytes(b"half")
            os._exit(9)
    os.waitpid(process, 0)
    assert len(list((home / RUN).iterdir())) == len(before) + 2
    read_config(home / RUN / "config.yml")
    assert sorted(path.name for path in (home / RUN).iterdir()) == before


def test_a_run_without_a_checkpoint_is_refused_though_another_of_its_name_has_one(
    two_runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(two_runs[0].parents[4], home)
    shutil.rmtree(home / RUN / "nerfstudio_models")
    monkeypatch.chdir(two_runs[1].parents[4])
    with pytest.raises(InputError, match="has no checkpoint"):
        export_run(home / RUN / "config.yml", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda config: setattr(config, "max_num_iterations", "many"),
        lambda config: setattr(config, "relative_model_dir", 3),
        lambda config: setattr(config.pipeline.datamanager, "data", 3),
        lambda config: setattr(config.pipeline.datamanager, "dataparser", {"data": "x"}),
        lambda config: setattr(config, "pipeline", {}),
        lambda config: setattr(config.pipeline.model, "camera_optimizer", None),
        lambda config: setattr(config, "experiment_name", 7),
    ],
)
def test_a_field_of_another_type_is_one_sentence(change: object, tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "outputs", steps=1)
    experiment, place = config.experiment_name, config.get_base_dir()
    change(config)  # type: ignore[operator]
    place.mkdir(parents=True)
    (place / "config.yml").write_text(yaml.dump(config))
    with pytest.raises(InputError, match=r"config\.yml: '.*' is .*as ns-train wrote it"):
        read_config(place / "config.yml")
    assert experiment == "tiny"
