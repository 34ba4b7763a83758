"""The study of recipes: no test room takes part, and the page says each recipe's change against the original."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.named_recipes import RECIPES
from benchmarks.recipes import Study, change_rows, write_page
from benchmarks.rooms import Programme
from benchmarks.rounds import ROUNDS, Rounds
from tests.benchmarks.test_rooms import learned_from, words_after
from tests.fit3d_finetune.report.samples import make_results


@pytest.fixture
def study(tmp_path: Path) -> Study:
    rooms = tuple(tmp_path / f"room_{index:02d}" for index in range(10))
    programme = Programme(rooms, tmp_path / "camvid", tmp_path / "work")
    programme.link_exports()
    return Study(programme, tuple(programme.folds))


def test_recipes_are_judged_by_rooms_that_no_table_of_the_fold_is_tested_on(study: Study) -> None:
    for fold in study.programme.folds:
        test, validation = ({room.name for room in rooms} for rooms in (fold.test, fold.validation))
        for recipe in RECIPES:
            assert not learned_from(study.programme.candidate(fold, recipe)) & (test | validation)
        for recipe in study.recipes:
            probing = study.trial(fold, recipe)
            assert words_after(probing, "--validation-data") == validation
            assert not words_after(probing, "--train-data") & (test | validation)


def test_every_training_and_trial_is_one_of_its_own(study: Study) -> None:
    tasks = study.tasks()
    rounds = [task for fold in study.folds for task in Rounds(study.programme, fold).tasks(max(ROUNDS.values()))]
    assert len({task.name for task in tasks}) == len(tasks) == 5 * (2 * len(RECIPES) + len(ROUNDS)) + len(rounds)
    made = {task.makes for task in tasks} | {study.programme.export(room).makes for room in study.programme.rooms}
    assert {path for task in tasks for path in task.needs} <= made


def test_a_study_of_some_recipes_has_the_main_one_beside_them_and_no_rounds(study: Study) -> None:
    some = dataclasses.replace(study, folds=study.folds[:1], recipes=("gram",))
    trained = {task.makes.parent.name for task in some.tasks() if task.name.startswith("fine-tune")}
    assert trained == {"A-inner-gram", "A-inner-depth-normals-class_token"}
    assert some.rows == ["depth, normals, class token", "gram"], "and the page shows it"


def test_the_page_has_the_changes_of_every_arm(tmp_path: Path) -> None:
    runs = [make_results(scenes=2), make_results(scenes=2)]
    rows = change_rows([runs, runs])
    assert len(rows) == 2 + len(runs[0].arms) - 1
    [row] = [row for row in rows if row.startswith("| fine-tuned |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "+3.0 ± 0.0"  # 39.4 to 42.4
    assert cells[2] == "−4.4 ± 0.0"  # 0.482 to 0.461
    write_page(tmp_path / "recipes.md", [runs], ["A", "C"])
    assert rows[2] in (tmp_path / "recipes.md").read_text()


def test_a_later_round_is_compared_with_the_first_original_and_not_with_the_round_before() -> None:
    first = make_results(scenes=2)
    backbones = {**first.backbones, "original": {**first.backbones["original"], "weights_sha256": "of round one"}}
    segmentation = {**first.segmentation, "original": first.segmentation["fine-tuned"]}
    later = dataclasses.replace(first, backbones=backbones, segmentation=segmentation)
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in change_rows([[first], [later]])[2:]}
    assert rows["fine-tuned"] == "+3.0", "nothing, were it compared with its own original"
    assert {name for name in rows if "round before" in name} == {
        name.replace("original", "round before") for name in rows if "original" in name
    }
