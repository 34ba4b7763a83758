"""fit3d-probe as a user runs it: the whole way on a tiny scene, and what it says about bad input."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fit3d_finetune.backbone.hub import WEIGHTS_FILE
from fit3d_finetune.backbone.precision import PrecisionChoice
from fit3d_finetune.commands.probe import ProbeArguments, main, run
from fit3d_finetune.probing.data.tasks import DEFAULT_TASKS, TASKS
from fit3d_finetune.probing.protocol import PAPER, PROTOCOLS
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.report.folder import OUTPUT_FILES, require_output_dir, write_results
from fit3d_finetune.report.metrics import mean, metrics_of
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.probing.scenes import (
    BACKBONE,
    CLASSES,
    HEIGHT,
    WIDTH,
    change_transforms,
    write_finetuned,
    write_scene,
)
from tests.fit3d_finetune.report.samples import make_results
from tests.trees import figures, listed

ARMS = [
    *("original", "fine-tuned", "2D control"),
    *("original + original", "original + fine-tuned", "original + 2D control"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("probe")
    return {
        "train": write_scene(root / "train", seed=1),
        "test": write_scene(root / "test", views=4, seed=2),
        "finetuned": write_finetuned(root / "finetuned", noise=0.01),
        "control": write_finetuned(root / "control", noise=0.02, targets="mirror"),
    }


def call_main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["fit3d-probe", *map(str, arguments)])
    main()


def test_a_whole_run_writes_results_tables_and_report_for_all_arms(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call_main(
        monkeypatch,
        *("--finetuned", folders["finetuned"], "--control", folders["control"], "--iterations", "20"),
        *("--train-data", folders["train"], "--test-data", f"scene:{folders['test']}", "--seeds", "0", "1"),
        *("--device", "cpu", "--output-dir", tmp_path / "out", "--tasks", *TASKS),
    )
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert written - {"figures", ".fit3d-probe"} <= {*OUTPUT_FILES}
    results = ProbeResults.load(tmp_path / "out/results.json")
    assert [arm.name for arm in results.arms] == ARMS
    assert results.protocol == "fast"
    assert results.seeds == [0, 1]
    assert results.classes == CLASSES
    assert results.test_images == [f"test/frame_{index:03d}" for index in range(4)]
    assert set(results.counted_classes) <= {0, 1, 2}
    assert results.counted_classes
    for part in (
        results.segmentation,
        results.depth,
        results.depth_patches,
        results.normals,
        results.nearest_neighbours,
        results.nearest_neighbours_across,
        results.consistency,
        results.matching,
    ):
        assert list(part) == ARMS
    assert results.segmentation["fine-tuned"].counts.unions.shape == (2, 4, 3)
    assert (results.scenes, results.image_scenes) == (["test"], [0] * 4)
    assert np.isfinite(results.depth["2D control"].rmse).all()
    assert sum(results.consistency["original"].pairs) == 6
    assert len({result.rmse[0] for result in results.depth.values()}) == 6, "arms differ"
    assert {c.task for c in results.comparisons} == {
        *("segmentation", "depth", "depth_patches", "normals", "nearest_neighbours", "nearest_neighbours_across"),
        *("consistency", "matching"),
    }
    for comparison in results.comparisons:
        assert not comparison.tested, "one scene is no sample"
        shown = next(metric for metric in metrics_of(results) if metric.part == comparison.task)
        for arm, value in ((comparison.arm, comparison.after), (comparison.baseline, comparison.before)):
            assert value == pytest.approx(mean(shown.measured(results, arm)), rel=1e-12), "what is shown is compared"
    beside_itself = [c for c in results.comparisons if c.arm == "original + original"]
    assert {c.task: c.difference == 0 for c in beside_itself} == {
        **{
            "segmentation": False,
            "depth": False,
            "depth_patches": False,
            "normals": False,
            "nearest_neighbours": True,
            "nearest_neighbours_across": True,
            "consistency": True,
            "matching": True,
        }
    }, "trained heads of their own, but the same neighbours"
    assert [c.arm for c in results.comparisons if c.metric == "RMSE"] == ARMS[1:]
    assert np.isfinite(results.normals["original"].rmse).all()
    assert all(c.baseline == "original" for c in results.comparisons)
    hashes = {name: backbone["weights_sha256"] for name, backbone in results.backbones.items()}
    assert len(set(hashes.values())) == 3
    written = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {"segmentation", "classes", "depth", "normals", "nearest_neighbours", "consistency", "matching"}
    tables |= {"depth_patches", "nearest_neighbours_across", "comparisons", "scenes"}
    assert written >= {"results.json", "report.html", *(f"{name}.csv" for name in tables)}
    assert len((tmp_path / "out/segmentation.csv").read_text().splitlines()) == 1 + 6 * 2
    page = (tmp_path / "out/report.html").read_text()
    assert all(name in page for name in (*ARMS[:3], *CLASSES))
    said = capsys.readouterr()
    assert "in 1 of 1 scene" in said.out + said.err
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    for text in (said.out, said.err, *(path.read_text() for path in files)):
        assert "significan" not in text, "of one scene nothing is significant, anywhere"


def test_the_same_seeds_give_the_same_figures_and_a_seed_does_not_depend_on_the_others(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    def figures(seeds: tuple[int, ...]) -> ProbeResults:
        return run(
            ProbeArguments(
                test_data=(str(folders["test"]),),
                train_data=(str(folders["train"]),),
                backbone=BACKBONE,
                tasks=("segmentation", "depth"),
                iterations=10,
                seeds=seeds,
                device="cpu",
                output_dir=tmp_path / "out",
            )
        )

    first, second, alone = figures((0, 1)), figures((0, 1)), figures((1,))
    assert [arm.name for arm in first.arms] == ["original", "original + original"]
    for arm in ("original", "original + original"):
        counts = [results.segmentation[arm].counts for results in (first, second)]
        np.testing.assert_array_equal(counts[0].intersections, counts[1].intersections)
        assert first.segmentation[arm].miou == second.segmentation[arm].miou
    assert first.depth == second.depth
    assert first.depth["original"].rmse[0] != first.depth["original"].rmse[1]
    assert alone.depth["original"].rmse[0] == pytest.approx(first.depth["original"].rmse[1], rel=1e-4)


def test_the_paper_protocol_runs_from_end_to_end_and_counts_all_classes(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = {
        "batch": 2,
        "segmentation_sides": (256, 64),
        "segmentation_crop": 64,
        "segmentation_stride": 43,
    }
    monkeypatch.setitem(PROTOCOLS, "paper", replace(PAPER, **small))
    scene = write_scene(tmp_path / "scene", views=2)
    (scene / "classes.json").write_text(json.dumps([*CLASSES, "never seen"]))
    results = run(
        ProbeArguments(
            test_data=(str(scene),),
            train_data=(str(scene),),
            finetuned=folders["finetuned"],
            tasks=("segmentation", "depth"),
            protocol="paper",
            iterations=2,
            seeds=(0, 1),
            device="cpu",
            output_dir=tmp_path / "out",
        )
    )
    assert results.protocol == "paper"
    assert results.counted_classes == [0, 1, 2, 3]
    for arm in results.arms:
        assert np.isfinite(results.segmentation[arm.name].pooled_miou).all()
        assert np.isfinite(results.depth[arm.name].rmse).all()
    assert "Counted classes" in (tmp_path / "out/report.html").read_text()
    assert "4 of 4: " in (tmp_path / "out/report.html").read_text()


def test_consistency_alone_needs_neither_training_data_nor_labels(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene")
    change_transforms(scene, drop=["semantic_file_path"])
    (scene / "classes.json").unlink()
    results = run(
        ProbeArguments(
            test_data=(str(scene),), backbone=BACKBONE, tasks=("consistency",), device="cpu", output_dir=tmp_path / "o"
        )
    )
    recall = results.consistency["original"].recall
    assert sum(results.consistency["original"].pairs) == 15
    assert not results.segmentation
    assert not results.depth
    assert results.classes == []
    assert np.nanmin(recall) >= 0
    assert np.nanmax(recall) <= 1


def small(*arguments: str | Path) -> list[str | Path]:
    backbone = ("--backbone.name", "test_vit", "--backbone.weights", "random")
    return [*backbone, "--iterations", "2", "--device", "cpu", *arguments]


def test_bad_arguments_end_with_code_2_and_one_sentence(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test, tuned = folders["train"], folders["test"], folders["finetuned"]
    both = ("--train-data", train, "--test-data", test)
    other = write_scene(tmp_path / "other")
    (other / "classes.json").write_text(json.dumps(["sky", "wall", "door"]))
    bare = write_scene(tmp_path / "bare")
    change_transforms(bare, drop=["semantic_file_path", "depth_file_path"])
    cases = [
        (("--test-data",), "--test-data is empty"),
        ((*both, "--tasks"), "--tasks is empty: give at least one of segmentation"),
        (("--test-data", test, "--tasks"), "--tasks is empty: give at least one of segmentation"),
        (("--test-data", test), "--train-data is empty"),
        ((*both, "--seeds"), "--seeds is empty"),
        ((*both, "--iterations", "0"), "--iterations must be at least 1, not 0"),
        ((*both, "--max-depth", "0"), "--max-depth must be a number of metres above 0"),
        ((*both, "--max-depth", "nan"), "--max-depth must be a number of metres above 0"),
        ((*both, "--max-depth", "1"), "no training image has a depth of at most 1 m"),
        ((*both, "--depth-benchmark", "nyu"), "--depth-benchmark nyu is for images of 640x480, but"),
        ((*both, "--finetuned", tmp_path), "is not a fine-tuned backbone (no fit3d.json)"),
        ((*both, "--control", tuned), "--control needs --finetuned"),
        ((*both, "--finetuned", tuned, "--control", tmp_path / "none"), "is not a fine-tuned backbone"),
        (("--train-data", train, "--test-data", tmp_path / "none"), "none holds no images"),
        (("--train-data", train, "--test-data", other), "have different class lists"),
        (("--train-data", train, "--test-data", bare, "--tasks", "segmentation"), "--tasks segmentation needs labels"),
        (("--train-data", bare, "--test-data", test, "--tasks", "depth"), "--tasks depth needs depth, which"),
        (("--test-data", bare, "--tasks", "consistency"), "--tasks consistency needs depth and undistorted cameras"),
    ]
    for arguments, sentence in cases:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            call_main(monkeypatch, *small(*arguments), "--output-dir", tmp_path / "out")
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert caught.value.code == 2, arguments
        assert len(said) == 1, (arguments, said)
        assert sentence in said[0], arguments
        assert not (tmp_path / "out").exists(), "nothing is written"


def test_bad_labels_anywhere_stop_the_run_before_anything_is_encoded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = write_scene(tmp_path / "train"), write_scene(tmp_path / "test", views=2)
    Image.fromarray(np.full((HEIGHT, WIDTH), 9, np.uint8)).save(train / "semantic/frame_005.png")
    with pytest.raises(SystemExit) as caught:
        call_main(monkeypatch, *small("--train-data", train, "--test-data", test), "--output-dir", tmp_path / "out")
    assert caught.value.code == 2
    assert "frame_005.png holds class 9, but there are 3 classes" in capsys.readouterr().err
    assert not cache.exists() or not list(cache.iterdir())


def test_a_control_of_another_backbone_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from fit3d_ns.common.errors import InputError

    other = write_finetuned(tmp_path / "other", 0.01, replace(BACKBONE, layer=1))
    arguments = ProbeArguments(
        test_data=(str(folders["test"]),),
        train_data=(str(folders["train"]),),
        finetuned=folders["finetuned"],
        control=other,
        device="cpu",
    )
    with pytest.raises(InputError, match="started from another backbone than --finetuned"):
        run(arguments)


# ---- where results go


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fit3d_finetune.probing.data.datasets.read_data", pytest.fail)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/x", "/proc/self", "x" * 300])
def test_a_place_that_cannot_be_written_is_found_before_any_work(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a user's")
    with pytest.raises(SystemExit) as stop:
        call_main(monkeypatch, "--test-data", "anything", "--output-dir", tmp_path / place)
    assert stop.value.code == 2
    assert "error: --output-dir" in capsys.readouterr().err
    assert tree(tmp_path) == {"file": "a user's"}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", [*OUTPUT_FILES, "figures"])
def test_a_users_file_that_would_be_replaced_is_found_before_any_work_and_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(SystemExit) as stop:
        call_main(monkeypatch, "--test-data", "anything", "--output-dir", tmp_path)
    assert stop.value.code == 2
    assert str(tmp_path / name) in capsys.readouterr().err
    assert tree(tmp_path) == {name: "{}"}


def test_results_of_an_earlier_probing_are_replaced_and_other_files_stay(tmp_path: Path) -> None:
    results = make_results()
    (tmp_path / "notes.txt").write_text("a user's")
    require_output_dir(tmp_path)
    write_results(results, [], tmp_path)
    require_output_dir(tmp_path)
    (tmp_path / ".fit3d-probe").unlink()  # as release 0.1 left it
    require_output_dir(tmp_path)
    write_results(results, [], tmp_path)
    assert ProbeResults.load(tmp_path / "results.json").arms == results.arms
    assert tree(tmp_path)["notes.txt"] == "a user's"


@pytest.mark.parametrize(("precision", "expected"), [(None, "fp32"), ("fp32", "fp32"), ("bf16", "bf16")])
def test_all_backbones_are_probed_in_the_precision_that_is_asked_for(
    folders: dict[str, Path], tmp_path: Path, precision: PrecisionChoice | None, expected: str
) -> None:
    results = run(
        ProbeArguments(
            test_data=(str(folders["test"]),),
            finetuned=folders["finetuned"],
            control=folders["control"],
            tasks=("consistency",),
            precision=precision,
            device="cpu",
            output_dir=tmp_path / "out",
        )
    )
    assert {backbone["precision"] for backbone in results.backbones.values()} == {expected}


def test_further_backbones_are_arms(folders: dict[str, Path], tmp_path: Path) -> None:
    weights = tmp_path / "other.safetensors"
    shutil.copy(folders["control"] / WEIGHTS_FILE, weights)
    results = run(
        ProbeArguments(
            test_data=(str(folders["test"]),),
            finetuned=folders["finetuned"],
            arm=(f"again={folders['finetuned']}", f"file={weights}", f"timm = local-dir:{folders['control']}"),
            tasks=("consistency",),
            device="cpu",
            output_dir=tmp_path / "out",
        )
    )
    names = ["original", "fine-tuned", "again", "file", "timm"]
    assert [arm.name for arm in results.arms] == [*names, *(f"original + {name}" for name in names)]
    recall = {name: result.pair_recall for name, result in results.consistency.items()}
    assert recall["again"] == recall["fine-tuned"]
    assert recall["file"] != recall["fine-tuned"]
    layers = {name: backbone["layer"] for name, backbone in results.backbones.items()}
    assert layers["file"] == layers["original"], "a file of weights is read at the original's layer"


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("nameless", "not NAME=WEIGHTS"),
        ("=x.safetensors", "not NAME=WEIGHTS"),
        ("a+b=x.safetensors", "not NAME=WEIGHTS"),
        ("original=x.safetensors", "already"),
        ("a=nowhere/weights", "no such file or folder"),
        ("a=weights.pth", "no such file or folder"),
        ("a=resnet_of_nobody", "resnet_of_nobody"),
    ],
)
def test_an_arm_that_cannot_be_is_named(folders: dict[str, Path], tmp_path: Path, arm: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(
            ProbeArguments(
                test_data=(str(folders["test"]),),
                backbone=BACKBONE,
                tasks=("consistency",),
                arm=(arm,),
                output_dir=tmp_path / "out",
            )
        )


# ---- the plan without the probing


def test_a_dry_run_says_what_a_probing_would_take_and_writes_nothing(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    before = listed(tmp_path, *folders.values())
    call_main(
        monkeypatch,
        *("--finetuned", folders["finetuned"], "--train-data", folders["train"], "--test-data", folders["test"]),
        *("--device", "cpu", "--output-dir", tmp_path / "new" / "out", "--dry-run"),
    )
    assert listed(tmp_path, *folders.values()) == before
    said = figures(capsys.readouterr().out)
    assert said["Arms"].endswith("seeds 0, 1, 2")
    assert said["Tasks"] == ", ".join(DEFAULT_TASKS)
    assert {"Time", "Memory", "Disk", "features by original", "features by fine-tuned"} <= said.keys()
    for task, work in {
        "segmentation": "1200 iterations, 4 test images",
        "depth": "800 iterations, 4 test images",
        "consistency": "6 pairs of views",
    }.items():
        assert said[f"{task}, {work}"].startswith("0:0")
    assert "no estimate" not in said["Time"]


def test_a_dry_run_refuses_what_a_probing_refuses(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    broken = tmp_path / "broken"
    shutil.copytree(folders["test"], broken)
    sorted((broken / "depth").iterdir())[0].write_bytes(b"cut")
    (tmp_path / "file").write_text("")
    given = ("--train-data", folders["train"], "--device", "cpu")
    for words in (
        (*given, "--test-data", broken),
        (*given, "--test-data", folders["test"], "--output-dir", tmp_path / "file"),
        ("--test-data", folders["test"]),
    ):
        said = []
        for more in ((), ("--dry-run",)):
            with pytest.raises(SystemExit) as stop:
                call_main(monkeypatch, "--output-dir", tmp_path / "out", *words, *more)
            assert stop.value.code == 2
            said.append([line for line in capsys.readouterr().err.splitlines() if "rror" in line or "fit" in line])
        assert said[0] == said[1] != []
