"""Rounds of a fold: each goes on from the last one's backbone, on rooms that no table of the fold is tested on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.named_recipes import MAIN, RECIPES
from benchmarks.rooms import Programme
from benchmarks.rounds import ROUNDS, Rounds
from fit3d_finetune.commands.finetune import parse
from tests.benchmarks.test_rooms import words_after


@pytest.fixture
def rounds(tmp_path: Path) -> Rounds:
    programme = Programme(tuple(tmp_path / f"room_{index:02d}" for index in range(10)), None, tmp_path / "work")
    return Rounds(programme, programme.folds[0])


def test_the_first_round_is_the_recipe_itself_and_no_training_is_done_twice(rounds: Rounds) -> None:
    assert rounds.training(1) == rounds.programme.candidate(rounds.fold, MAIN)
    made = [task.makes for task in rounds.tasks(max(ROUNDS.values()))]
    assert len(set(made)) == len(made) == sum(2 + len(rounds.fold.inner) for _ in range(max(ROUNDS.values()) - 1))
    assert len({task.name for task in rounds.tasks(max(ROUNDS.values()))}) == len(made)


def test_a_round_lifts_and_goes_on_with_the_backbone_of_the_last(rounds: Rounds) -> None:
    for count in range(2, max(ROUNDS.values()) + 1):
        last, training = rounds.backbone(count - 1), rounds.training(count)
        arguments = parse(training.command[1:])
        assert arguments.weights == str(last.makes.parent)
        assert arguments.recipe.weight_mix == 1
        lifts = rounds.lifts(count)
        assert set(training.needs) == {lift.makes for lift in lifts}
        assert {lift.makes.parent.parent for lift in lifts} == {Path(arguments.exports)}
        for lift in lifts:
            assert words_after(lift, "--backbone.weights") == {last.makes.parent.name}
            assert last.makes in lift.needs
        assert rounds.training(count - 1).makes in last.needs


def test_no_room_that_is_tested_or_validates_is_lifted(rounds: Rounds) -> None:
    for count in range(2, max(ROUNDS.values()) + 1):
        rooms = {lift.makes.parent.name for lift in rounds.lifts(count)}
        assert rooms == {room.name for room in rounds.fold.inner}


def test_every_recipe_is_options_of_the_command() -> None:
    for options in RECIPES.values():
        parse(["--exports", "runs", *options]).recipe.check()
    chosen = parse(["--exports", "runs", *RECIPES["gram, margin"]]).recipe
    assert (chosen.gram_weight, chosen.anchor_weight, chosen.anchor_margin) == (2.0, 1.0, 0.85)
