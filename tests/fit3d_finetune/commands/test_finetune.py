"""Bad input ends the command with one sentence and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fit3d_finetune.backbone.hub import INFO_FILE, read_finetuned
from fit3d_finetune.commands.finetune import main, parse
from fit3d_finetune.training.recipe import PRESETS
from fit3d_finetune.training.run import OUTPUT_FILES
from fit3d_ns.common import output_place
from fit3d_ns.common.temporaries import temporaries
from fit3d_ns.features.backbone import BackboneConfig
from tests.fit3d_finetune.scenes import BACKBONE, HEIGHT, WIDTH, backbone_info, make_gaussians, write_export

Command = Callable[..., None]
Refused = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs two steps on tmp_path/runs into tmp_path/out."""

    def run(*options: str) -> None:
        defaults = ["--exports", str(tmp_path / "runs"), "--output-dir", str(tmp_path / "out"), "--tracker", "none"]
        arguments = ["fit3d-finetune", *defaults, "--max-steps", "2", "--device", "cpu", *options]
        monkeypatch.setattr(sys, "argv", arguments)
        main()

    return run


@pytest.fixture
def refused(command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command, which must fail; returns its sentence."""

    def run(*options: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            command(*options)
        assert exit_.value.code == 2
        sentences = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(sentences) == 1
        assert sentences[0].endswith(".")
        assert not (tmp_path / "out").exists()
        assert not list((tmp_path / "cache").rglob("*.tmp"))
        return sentences[0]

    return run


@pytest.fixture
def runs(exports: Path, tmp_path: Path) -> Path:
    """Copies of the exports; their images stay where they are."""
    return Path(shutil.copytree(exports, tmp_path / "runs"))


def test_good_input_is_not_refused(runs: Path, command: Command, tmp_path: Path) -> None:
    command("--novel-views", "1", "--precision", "fp32")
    summary = read_finetuned(tmp_path / "out").summary
    assert list(summary["run"]["scenes"]) == ["attic", "barn"]
    assert summary["training_views"] > 8


def test_a_folder_that_does_not_exist(refused: Refused) -> None:
    assert "runs is not a folder: give the folder that fit3d-export wrote to" in refused()


def test_a_folder_without_exports(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    (tmp_path / "runs" / ".scene.tmp").mkdir()
    (tmp_path / "runs" / ".scene.tmp" / "scene.json").touch()  # of a write that was cut short
    assert "runs holds no exports: make them with fit3d-export --output-dir" in refused()


def test_a_single_export_may_be_given_from_inside_it(
    runs: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs / "barn")
    command("--exports", ".")
    assert list(read_finetuned(tmp_path / "out").summary["run"]["scenes"]) == ["barn"]


@pytest.mark.parametrize(
    "other", [BackboneConfig("test_vit", "random", layer=2), BackboneConfig("vit_tiny_patch16_224", "random", layer=3)]
)
def test_exports_of_different_backbones(runs: Path, refused: Refused, other: BackboneConfig) -> None:
    write_export(runs / "cellar", backbone=backbone_info(other))
    sentence = refused()
    assert f"{runs / 'attic'} and {runs / 'cellar'} were made with different backbones" in sentence
    assert "give exports of one backbone" in sentence


def spoil(export: Path) -> None:
    path = export / "gaussians.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def test_a_broken_export_is_named_and_can_be_left_out(
    runs: Path, refused: Refused, command: Command, tmp_path: Path
) -> None:
    spoil(runs / "attic")
    assert f"{runs / 'attic' / 'gaussians.safetensors'} is truncated or damaged" in refused()
    command("--skip-broken")
    assert list(read_finetuned(tmp_path / "out").summary["run"]["scenes"]) == ["barn"]


def test_an_export_of_which_a_file_is_missing_is_broken_too(runs: Path, refused: Refused) -> None:
    (runs / "attic" / "scene.json").unlink()
    assert f"{runs / 'attic'} has no scene.json" in refused()


def test_only_broken_exports(runs: Path, refused: Refused) -> None:
    for export in runs.iterdir():
        spoil(export)
    assert "all 2 exports in" in refused("--skip-broken")


@pytest.mark.parametrize("root", ["new", "new/plane"])
def test_images_that_moved(refused: Refused, command: Command, tmp_path: Path, root: str) -> None:
    write_export(tmp_path / "runs" / "plane")
    (tmp_path / "captures").rename(tmp_path / "new")
    sentence = refused()
    assert "5 of 5 images" in sentence
    assert "--images-root" in sentence
    command("--images-root", str(tmp_path / root))
    assert read_finetuned(tmp_path / "out").summary["steps"] == 2


def test_weights_that_are_not_there(runs: Path, refused: Refused) -> None:
    assert "--weights nowhere.pth: there is no such file or folder" in refused("--weights", "nowhere.pth")


def test_weights_other_than_those_of_the_exports(refused: Refused, tmp_path: Path) -> None:
    info = backbone_info()
    other = type(info)(**{**info.__dict__, "weights_sha256": "ab" * 32})
    write_export(tmp_path / "runs" / "plane", backbone=other)
    sentence = refused()
    assert "were made with other weights" in sentence
    assert "--weights" in sentence


def test_weights_from_a_file_must_be_given(refused: Refused, tmp_path: Path) -> None:
    info = backbone_info()
    write_export(tmp_path / "runs" / "plane", backbone=type(info)(**{**info.__dict__, "weights": "file"}))
    assert "give its path by --weights" in refused()


@pytest.mark.parametrize("targets", ["gaussians", "mirror"])
def test_masks_that_leave_nothing(refused: Refused, tmp_path: Path, targets: str) -> None:
    nothing = np.zeros((HEIGHT, WIDTH), dtype=bool)
    write_export(tmp_path / "runs" / "plane", mask=nothing)
    assert "0.png is zero everywhere, which leaves nothing of its image" in refused("--targets", targets)


@pytest.mark.parametrize("targets", ["gaussians", "mirror"])
def test_exports_that_give_no_valid_target_pixel(refused: Refused, tmp_path: Path, targets: str) -> None:
    hardly_anything = np.zeros((HEIGHT, WIDTH), dtype=bool)
    hardly_anything[0, 0] = True
    write_export(tmp_path / "runs" / "plane", mask=hardly_anything)
    sentence = refused("--targets", targets, "--uncovered", "ignore")
    assert f"{tmp_path / 'runs' / 'plane'} gives no target" in sentence


def test_a_mask_of_another_size(refused: Refused, tmp_path: Path) -> None:
    mask = np.ones((HEIGHT, WIDTH), dtype=bool)
    write_export(tmp_path / "runs" / "plane", mask=mask)
    make_gaussians(tmp_path / "captures" / "plane", mask=mask[:-4])
    assert "has 64 x 44 pixels, but its image has 64 x 48" in refused()


def test_exports_without_training_views(refused: Refused, tmp_path: Path) -> None:
    write_export(tmp_path / "runs" / "plane", views=1)
    assert "no training views" in refused()


def test_an_output_folder_that_is_a_file(runs: Path, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file is a file, not a folder" in refused("--output-dir", str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("place", ["/proc/x", "/proc/self", "x" * 300, "y/" + "x" * 300])
def test_an_output_folder_that_cannot_be_written_is_found_before_any_work(
    runs: Path, refused: Refused, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fit3d_finetune.targets.finding.find_scenes", pytest.fail)
    assert "--output-dir" in refused("--output-dir", str(tmp_path / place))
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("name", [*(name for name in OUTPUT_FILES[:4] if name != INFO_FILE), "logs"])
def test_a_users_file_in_the_output_folder_is_found_before_any_work_and_stays(
    runs: Path, refused: Refused, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fit3d_finetune.targets.finding.find_scenes", pytest.fail)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("a user's")
    assert str(tmp_path / "mine" / name) in refused("--output-dir", str(tmp_path / "mine"))
    assert {path.name: path.read_text() for path in (tmp_path / "mine").iterdir()} == {name: "a user's"}


def test_a_file_that_only_has_the_name_of_ours_is_neither_read_nor_replaced(
    runs: Path, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for name in (INFO_FILE, "README.md"):
        (tmp_path / "mine" / name).write_text("a user's")
    assert "mine is not a fine-tuned backbone" in refused("--output-dir", str(tmp_path / "mine"))
    assert {path.read_text() for path in (tmp_path / "mine").iterdir()} == {"a user's"}


def test_a_users_other_files_in_the_output_folder_are_left_alone(runs: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("a user's")
    (tmp_path / "out" / ".model.safetensors.old.tmp").write_text("a user's")
    command()
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made - {"notes.txt", ".model.safetensors.old.tmp", ".fit3d-finetune"} <= {*OUTPUT_FILES}
    assert (tmp_path / "out" / "notes.txt").read_text() == "a user's"


def test_what_a_killed_run_wrote_without_its_last_file_is_its_own(runs: Path, command: Command, tmp_path: Path) -> None:
    command()
    (tmp_path / "out" / INFO_FILE).unlink()
    command()
    assert read_finetuned(tmp_path / "out").summary["steps"] == 2


def test_a_target_cache_that_cannot_be_written_is_found_before_any_target_is_made(
    runs: Path, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a user's")
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr("fit3d_finetune.targets.store.TargetStore.prepare", pytest.fail)
    assert "$FIT3D_CACHE_DIR" in refused()


def test_leftovers_of_a_killed_run_are_swept_also_where_it_is_finished(
    runs: Path, command: Command, tmp_path: Path
) -> None:
    for _ in range(2):
        process = os.fork()
        if process == 0:
            with temporaries(tmp_path / "out" / "checkpoint.safetensors") as names:
                names.new.write_bytes(b"half")
                os._exit(9)
        os.waitpid(process, 0)
        assert len(list((tmp_path / "out").glob(".*.lock"))) == 1
        command()
        assert list((tmp_path / "out").glob(".*.lock")) == list((tmp_path / "out").glob(".*.tmp")) == []


def test_too_little_room_is_found_before_the_training(
    runs: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_place.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**5))  # type: ignore[attr-defined]
    assert "MB are free" in refused()


def test_an_export_that_a_kill_left_aside_is_put_back_and_read(runs: Path, command: Command, tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:
        with temporaries(tmp_path / "runs" / "attic") as names:
            names.old.mkdir()
            os.rename(tmp_path / "runs" / "attic", names.old / "attic")
            os._exit(9)
    os.waitpid(process, 0)
    command()
    assert set(read_finetuned(tmp_path / "out").summary["run"]["scenes"]) == {"attic", "barn"}
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["attic", "barn"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--val-scenes", "garage"), "--val-scenes names garage, but the exports are attic, barn"),
        (("--val-scenes", "attic", "barn"), "--val-scenes leaves no scene to train on"),
        (("--val-fraction", "1"), "--val-fraction must lie in"),
        (("--max-steps", "0"), "--max-steps must be at least 1"),
        (("--lr", "-1"), "--lr must be more than 0"),
        (("--gram-weight", "-1"), "--gram-weight must be 0 or more, not -1"),
        (("--anchor-weight", "inf"), "--anchor-weight must be 0 or more, not inf"),
        (("--anchor-weight", "1", "--anchor-margin", "1.5"), "--anchor-margin must lie in 0..1, not 1.5"),
        (("--novel-views", "-1"), "--novel-views, --target-cache-gb and --remote-cache-gb must not be negative"),
        (("--adapter", "lora", "--rank", "0"), "--rank must lie in 1..256, not 0"),
        (("--adapter", "lora", "--rank", "257"), "--rank must lie in 1..256, not 257"),
        (("--rank", "8"), "--rank needs --adapter lora: give both, or neither"),
        (("--save", "adapter"), "--save adapter needs --adapter lora: give both, or neither"),
    ],
)
def test_options_that_make_no_sense(runs: Path, refused: Refused, options: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(*options)


@pytest.mark.parametrize("options", [("--preset", "best"), ("--loss", "l3"), ("--nonsense", "1")])
def test_options_that_do_not_exist(runs: Path, command: Command, options: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command(*options)
    assert exit_.value.code == 2


def test_the_preset_gives_the_defaults_that_options_override() -> None:
    assert parse(["--exports", "runs"]).recipe == PRESETS["recommended"]
    assert parse(["--preset", "paper", "--exports", "runs"]).recipe == PRESETS["paper"]
    chosen = parse(["--exports", "runs", "--preset=recommended", "--epochs", "7"]).recipe
    assert (chosen.epochs, chosen.lr) == (7, PRESETS["recommended"].lr)


def test_the_command_trains_an_adapter_alone_where_it_is_asked_to(runs: Path, command: Command, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    command("--adapter", "lora", "--save", "adapter", "--precision", "fp32")
    assert read_finetuned(tmp_path / "out").summary["run"]["rank"] == 8
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert written - {".fit3d-finetune", "adapter"} <= {*OUTPUT_FILES}
    assert {"adapter/adapter_model.safetensors"} <= written
    assert "model.safetensors" not in written


def test_a_tenth_of_the_scenes_is_held_out(command: Command, tmp_path: Path) -> None:
    for i in range(10):
        write_export(tmp_path / "runs" / f"room_{i}", views=2, count=100)
    command()
    run = json.loads((tmp_path / "out" / "fit3d.json").read_text())["summary"]["run"]
    assert list(run["val_scenes"]) == ["room_9"]
    assert len(run["scenes"]) == 9
    assert run["backbone"]["layer"] == BACKBONE.layer


# ---- the plan without the training


def test_a_dry_run_says_what_a_run_would_take_and_writes_nothing(
    runs: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    command("--dry-run", "--precision", "fp32", "--keep-original", "0.1")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != tmp_path} == before
    said = {line.partition(":")[0]: line.partition(":")[2] for line in capsys.readouterr().out.splitlines()}
    assert said["Scenes"] == " 2 to train on, 0 held out"
    assert said["Steps"].startswith(" 2 of 2 views, 2 epochs")  # --max-steps of all these tests
    assert {"Views", "Time", "Memory", "Disk"} <= said.keys()
    assert str(tmp_path / "out") in said["Output"]


def test_a_dry_run_refuses_what_a_run_refuses(runs: Path, refused: Refused) -> None:
    spoil(runs / "attic")
    assert "is truncated or damaged" in refused("--dry-run")


def test_a_dry_run_of_a_finished_one_says_so(runs: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("--precision", "fp32")
    command("--precision", "fp32", "--dry-run")
    assert "is finished already: nothing to do" in capsys.readouterr().out
