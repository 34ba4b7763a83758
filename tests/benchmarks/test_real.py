"""The benchmark on real photos: halves that share no frame, a programme that makes all it needs, and its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import real_table
from benchmarks.real import FURTHER, HALVES, TUNINGS, Programme, link_exports, write_half
from benchmarks.real_table import arm_rows, write_table
from tests.fit3d_finetune.report.samples import make_results


@pytest.fixture
def programme(tmp_path: Path) -> Programme:
    scenes = {"kitchen": tmp_path / "kitchen", "fox": tmp_path / "fox"}
    return Programme(scenes, tmp_path / "kitchen-test", tmp_path / "msrc", tmp_path / "camvid", tmp_path / "work")


def test_the_halves_of_the_sequence_are_apart_in_time(tmp_path: Path) -> None:
    frames = [{"file_path": f"images/{index:06d}.jpg"} for index in range(1, 1000, 8)]
    sequence = tmp_path / "sequence"
    for name in ("images", "depth"):
        (sequence / name).mkdir(parents=True)
    (sequence / "transforms.json").write_text(json.dumps({"w": 640, "frames": frames}))
    numbers = {}
    for _ in range(2):  # a second start finds the links of the first
        for name, span in HALVES.items():
            transforms = json.loads((write_half(sequence, tmp_path / name, span) / "transforms.json").read_text())
            assert transforms["w"] == 640
            numbers[name] = [int(Path(frame["file_path"]).stem) for frame in transforms["frames"]]
    assert min(numbers["kitchen-test"]) - max(numbers["kitchen"]) >= 100
    assert all(len(half) > 40 for half in numbers.values())
    assert (tmp_path / "kitchen" / "depth").resolve() == sequence / "depth"
    with pytest.raises(SystemExit, match="no frame"):
        write_half(sequence, tmp_path / "none", (2000, 3000))


def test_the_programme_makes_all_that_it_needs(programme: Programme) -> None:
    tasks = programme.tasks()
    made = {task.makes for task in tasks}
    assert len(made) == len(tasks) == len({task.name for task in tasks})
    assert {path for task in tasks for path in task.needs} <= made
    assert {task.makes for task in programme.probings().values()} <= made
    assert {*FURTHER.values(), "recommended", "control"} == set(TUNINGS)


def test_nothing_that_is_probed_on_was_fine_tuned_on(programme: Programme) -> None:
    for task in programme.tasks():
        if task.command[0] == "ns-train":
            assert not {str(programme.kitchen_test), str(programme.msrc), str(programme.camvid)} & {*task.command}
    probing = programme.probings()["kitchen"].command
    assert probing[probing.index("--test-data") + 1] == str(programme.kitchen_test)


def test_exports_lie_together_by_links(tmp_path: Path) -> None:
    (tmp_path / "rooms" / "room_00").mkdir(parents=True)
    with pytest.raises(SystemExit, match="no exports"):
        link_exports(tmp_path / "rooms", tmp_path / "runs", ["fox"])
    (tmp_path / "rooms" / "room_00" / "scene.json").write_text("{}")
    for _ in range(2):
        link_exports(tmp_path / "rooms", tmp_path / "runs", ["fox"])
    assert {link.name for link in (tmp_path / "runs" / "rooms-and-real").iterdir()} == {"room_00", "fox"}


def test_a_part_of_the_programme_needs_only_what_it_is_made_from(programme: Programme) -> None:
    part = replace(programme, tunings=("recommended",), data=("MSRC",))
    tasks = [task for task in part.tasks() if task.command[0] != "ns-train" and task.command[0] != "fit3d-export"]
    assert [task.name for task in tasks] == ["fine-tune recommended", "probe MSRC"]
    assert not {"--control", "--arm"} & {*tasks[1].command}
    assert tasks[1].needs == (tasks[0].makes,)
    results, tunings = part.made()
    assert (list(results), list(tunings)) == (["MSRC"], ["recommended"])


def test_the_page_has_every_arm_on_every_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = make_results(scenes=1)
    results.save(tmp_path / "a.json")
    summary = {"run": {"scenes": {"fox": "", "desk": ""}, "targets": "gaussians", "backbone": {"precision": "fp32"}}}
    tuned = SimpleNamespace(summary={**summary, "training_views": 90, "steps": 90})
    monkeypatch.setattr(real_table, "read_finetuned", lambda _: tuned)
    results_of = {"kitchen": tmp_path / "a.json", "CamVid": tmp_path / "a.json"}
    write_table(tmp_path / "real.md", results_of, {"real-alone": tmp_path})
    page = (tmp_path / "real.md").read_text()
    assert page.count("| original + fine-tuned |") == 2
    assert "| real-alone | desk, fox | gaussians | 90 | 90 | fp32 |" in page
    assert "significan" not in page.replace("nothing here is tested for significance", "")
    assert "`python -m benchmarks.real --tunings real-alone --probe kitchen CamVid`" in page
    header, _, *rows = arm_rows(results)
    assert "depth: RMSE ↓" in header
    assert len(rows) == len(results.arms)
    assert all(row.count("|") == header.count("|") for row in rows)
