"""The five-fold cross-validation: every room is a test room once, and nothing is tuned on what it is tested on."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from benchmarks.named_recipes import RECIPES
from benchmarks.recipe_choice import CANDIDATES, Trial
from benchmarks.rooms import Programme, make_folds
from benchmarks.tasks import Task


@pytest.fixture
def programme(tmp_path: Path) -> Programme:
    rooms = tuple(tmp_path / f"room_{index:02d}" for index in range(10))
    programme = Programme(rooms, tmp_path / "camvid", tmp_path / "work")
    programme.link_exports()
    return programme


def words_after(task: Task, option: str) -> set[str]:
    """The values of an option that takes several, by the last part of their path."""
    at = task.command.index(option) + 1
    values = []
    for word in task.command[at:]:
        if word.startswith("--"):
            break
        values.append(Path(word).name)
    return set(values)


def learned_from(task: Task) -> set[str]:
    """The rooms that a fine-tuning is given."""
    at = task.command.index("--exports") + 1
    return {link.name for link in Path(task.command[at]).iterdir()}


def test_every_room_is_tested_exactly_once(programme: Programme) -> None:
    tested = [room for fold in programme.folds for room in fold.test]
    assert sorted(tested) == sorted(programme.rooms)


def test_a_fold_never_sees_its_test_rooms_before_it_is_tested(programme: Programme) -> None:
    for fold in programme.folds:
        test = {room.name for room in fold.test}
        for task in programme.trainings(fold).values():
            assert learned_from(task) == {room.name for room in fold.train}
            assert not learned_from(task) & test
        probing = programme.probing(fold)
        assert words_after(probing, "--test-data") == test
        assert words_after(probing, "--train-data") == {room.name for room in programme.rooms} - test


def test_the_recipe_is_chosen_on_rooms_of_the_training_half(programme: Programme) -> None:
    for fold in programme.folds:
        test, validation = ({room.name for room in rooms} for rooms in (fold.test, fold.validation))
        trainings = []
        for recipe in CANDIDATES:
            trial = programme.trial(fold, recipe)
            assert words_after(trial, "--validation-data") == validation
            assert words_after(trial, "--train-data") == {room.name for room in programme.rooms} - test - validation
            trainings += [task for task in programme.tasks() if task.makes in trial.needs]
        assert len({task.makes for task in trainings}) == len(CANDIDATES)
        for task in trainings:
            assert learned_from(task) == {room.name for room in fold.inner}
            assert not learned_from(task) & (test | validation)


def test_control_and_second_seed_have_the_same_budget_and_the_recipe_of_their_fold(programme: Programme) -> None:
    for index, fold in enumerate(programme.folds):
        best = CANDIDATES[index % len(CANDIDATES)]
        for recipe in CANDIDATES:
            made = programme.trial(fold, recipe).makes
            made.parent.mkdir(parents=True, exist_ok=True)
            Trial(recipe, {0.7: 0.3 if recipe == best else 0.1, 1.0: 0.2}, ["room"]).save(made)
        commands = {kind: " ".join(task.command) for kind, task in programme.trainings(fold).items()}
        plain = {re.sub(r"--(targets|seed|output-dir) \S+", "", command) for command in commands.values()}
        assert len(plain) == 1
        for task in programme.trainings(fold).values():
            assert set(programme.trials(fold)) <= set(task.needs)
            assert task.late() == (*RECIPES[best], "--weight-mix", "0.7")


def test_two_folds_have_a_second_seed_and_stage_1_has_three(programme: Programme) -> None:
    evidence = programme.evidence()
    assert sum(fold.second_seed is not None for fold in evidence.folds) == 2
    assert {len(metrics) for metrics in evidence.stage1.values()} == {3}


@pytest.mark.parametrize("once", [False, True])
def test_the_programme_makes_all_that_it_needs(programme: Programme, once: bool) -> None:
    programme = dataclasses.replace(programme, once=once)
    tasks = programme.tasks()
    made = {task.makes for task in tasks}
    assert len(made) == len(tasks) == len({task.name for task in tasks})
    assert {path for task in tasks for path in task.needs} <= made
    evidence = programme.evidence()
    shown = {path for fold in evidence.folds for path in (fold.results, *fold.trials)}
    assert shown | {evidence.streets} | {path for paths in evidence.stage1.values() for path in paths} <= made


def test_the_preset_needs_no_choice_and_no_options_of_its_own(programme: Programme) -> None:
    plain = dataclasses.replace(programme, preset=True)
    tasks = plain.tasks()
    made = {task.makes for task in tasks}
    assert {path for task in tasks for path in task.needs} <= made
    chosen = {task.makes for task in programme.tasks()}
    shared = {task.makes for task in tasks if task.name.split()[0] in ("train", "export", "evaluate")}
    assert made & chosen == shared, "a work folder that has seen both keeps what they trained apart"
    assert not any(task.name.startswith("try") or "inner" in task.name for task in tasks)
    for fold in plain.folds:
        assert [task.late() for task in plain.trainings(fold).values()] == [()] * len(plain.trainings(fold))
    assert all(fold.trials == [] for fold in plain.evidence().folds)


def test_once_leaves_out_repetitions_alone(programme: Programme) -> None:
    once = dataclasses.replace(programme, once=True)
    assert {task.makes for task in once.tasks()} < {task.makes for task in programme.tasks()}
    evidence = once.evidence()
    assert [fold.name for fold in evidence.folds] == [fold.name for fold in programme.folds]
    assert all(fold.second_seed is None for fold in evidence.folds)
    assert evidence.stage1 == {}
    without = dataclasses.replace(once, camvid=None)
    assert without.evidence().streets is None
    assert {task.makes for task in once.tasks()} - {task.makes for task in without.tasks()} == {evidence.streets}


def test_folds_of_other_numbers_of_rooms_test_each_once_too() -> None:
    rooms = [Path(f"room_{index}") for index in range(6)]
    assert sorted(room for fold in make_folds(rooms) for room in fold.test) == rooms
