"""fit3d-doctor on trained scenes: each fault that was put in is named, and nothing is of a healthy one."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fit3d_ns.commands.doctor import DoctorArguments, main, run
from fit3d_ns.common.errors import InputError
from fit3d_ns.method.export import export_run
from tests.fit3d_ns.judgement.captures import brighten_photo, photo_of, replace_photo, turn_camera, write_whole_room
from tests.fit3d_ns.method.runs import make_config, train

REPLACED, TURNED, BRIGHT = 5, 14, 24
"""Frames that get a fault; all are training views."""
STEPS = 300


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a capture without faults: its config.yml."""
    folder = tmp_path_factory.mktemp("healthy")
    capture = write_whole_room(folder / "room")
    return train(make_config(capture, folder / "outputs", STEPS, feature_lift="solve")).base_dir / "config.yml"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What is found of a run with three faulty views, by name, and the photo with each fault."""
    folder = tmp_path_factory.mktemp("faulty")
    capture = write_whole_room(folder / "room")
    photos = {
        "disagreement": replace_photo(capture, REPLACED).name,
        "poses": turn_camera(capture, TURNED, degrees=4).name,
        "exposure": brighten_photo(capture, BRIGHT, factor=2).name,
    }
    trained = train(make_config(capture, folder / "outputs", STEPS, feature_lift="solve"))
    ok, found = judged(DoctorArguments(load_config=trained.base_dir / "config.yml"))
    assert not ok
    return {finding["name"]: finding for finding in found["findings"]}, photos


def judged(arguments: DoctorArguments) -> tuple[bool, dict[str, Any]]:
    """What `run` returns, and all that it prints, which is JSON."""
    arguments.json = True
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        ok = run(arguments)
    return ok, json.loads(printed.getvalue())


def test_nothing_is_wrong_with_a_healthy_scene(healthy: Path) -> None:
    ok, found = judged(DoctorArguments(load_config=healthy))
    assert [finding["problem"] for finding in found["findings"]] == [""] * 5
    assert ok
    assert found["ok"]
    measured = found["measured"]
    assert measured["fit"]["loss"] == pytest.approx(measured["fit"]["floor"], rel=1e-3)  # these were solved for
    assert len(measured["views"]) == 36


@pytest.mark.parametrize("name", ["disagreement", "poses", "exposure"])
def test_a_fault_of_a_view_is_named_by_its_finding_and_by_no_other(
    name: str, faulty: tuple[dict[str, dict[str, Any]], dict[str, str]]
) -> None:
    findings, photos = faulty
    assert findings[name]["fault"]
    named = {other for other, finding in findings.items() if photos[name] in finding["problem"]}
    assert named == {name}
    others = [photo for other, photo in photos.items() if other != name]
    assert not any(photo in findings[name]["problem"] for photo in others)
    assert findings[name]["problem"].count("frame_") == 1


def test_features_that_were_not_trained_enough_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = write_whole_room(tmp_path / "room")
    config = make_config(capture, tmp_path / "outputs", STEPS, feature_init="zeros", feature_start_step=STEPS - 15)
    trained = train(config)
    assert not run(DoctorArguments(load_config=trained.base_dir / "config.yml"))
    lines = capsys.readouterr().out.splitlines()
    [wrong] = [line for line in lines if "WRONG" in line]
    assert "undertrained" in wrong
    assert "fit3d-lift" in wrong
    assert lines[-1] == "1 wrong; 0 notes."


@pytest.mark.slow
def test_an_export_is_judged_as_its_run(healthy: Path, tmp_path: Path) -> None:
    export = export_run(healthy, tmp_path / "runs")
    ok, found = judged(DoctorArguments(export=export))
    assert ok
    _, of_run = judged(DoctorArguments(load_config=healthy))
    # Features of an export are in half precision.
    assert found["measured"]["fit"]["loss"] == pytest.approx(of_run["measured"]["fit"]["loss"], rel=0.02)


def without_photos(healthy: Path, folder: Path) -> DoctorArguments:
    export = export_run(healthy, folder / "runs")
    return DoctorArguments(export=export, images_root=folder)


def without_run(healthy: Path, folder: Path) -> DoctorArguments:
    return DoctorArguments(load_config=folder / "config.yml")


def with_both(healthy: Path, folder: Path) -> DoctorArguments:
    return DoctorArguments(load_config=healthy, export=folder)


def with_images_of_no_export(healthy: Path, folder: Path) -> DoctorArguments:
    return DoctorArguments(load_config=healthy, images_root=folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (without_run, "config.yml"),
        (without_photos, "--images-root"),
        (with_both, "not both"),
        (with_images_of_no_export, "--export"),
    ],
)
def test_what_cannot_be_judged_is_one_sentence(
    arguments: Callable[[Path, Path], DoctorArguments], said: str, healthy: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        run(arguments(healthy, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_photo_that_is_gone_is_one_sentence(
    healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = healthy.parents[4] / "room"
    shutil.copytree(capture, tmp_path / "room")
    shutil.copytree(healthy.parent, tmp_path / "run")
    here, there = ("\n".join(f"- {part}" for part in path.parts) for path in (capture, tmp_path / "room"))
    text = healthy.read_text()
    assert here in text
    (tmp_path / "run" / "config.yml").write_text(text.replace(here, there))
    gone = photo_of(tmp_path / "room", 3)
    gone.unlink()
    with pytest.raises(SystemExit) as stop:
        run(DoctorArguments(load_config=tmp_path / "run" / "config.yml"))
    assert stop.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(gone) in line


def test_the_command_ends_with_code_2_where_there_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fit3d-doctor", "--load-config", str(tmp_path / "config.yml")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
