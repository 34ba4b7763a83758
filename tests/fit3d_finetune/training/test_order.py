"""The order of samples: every view once an epoch, the same for the same seed, and scene by scene in blocks."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_finetune.training.order import Order, steps_per_epoch
from fit3d_finetune.training.recipe import Recipe
from fit3d_ns.common.errors import InputError


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 60), per_step=st.integers(1, 9), epoch=st.integers(0, 4), seed=st.integers(0, 99))
def test_every_view_comes_once_an_epoch(count: int, per_step: int, epoch: int, seed: int) -> None:
    recipe = Recipe(batch_size=per_step, last_batch="keep")
    steps = steps_per_epoch(count, recipe)
    pieces = [Order(count, recipe, seed).of(epoch * steps + i) for i in range(steps)]
    assert Counter(index for piece in pieces for index in piece) == Counter(range(count))
    assert all(len(piece) == per_step for piece in pieces[:-1])


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 60), per_step=st.integers(1, 9), epoch=st.integers(0, 4), seed=st.integers(0, 99))
def test_where_the_last_batch_is_dropped_all_are_whole(count: int, per_step: int, epoch: int, seed: int) -> None:
    recipe = Recipe(batch_size=per_step, last_batch="drop")
    steps = steps_per_epoch(count, recipe)
    pieces = [Order(count, recipe, seed).of(epoch * steps + i) for i in range(steps)]
    assert steps == max(1, count // per_step), "fewer views than one batch are one step"
    assert {len(piece) for piece in pieces} == {min(count, per_step)}
    seen = [index for piece in pieces for index in piece]
    assert len(seen) == len(set(seen))


def test_the_order_follows_from_seed_and_epoch() -> None:
    def epoch(number: int, seed: int) -> list[int]:
        return [index for step in range(5) for index in Order(20, Recipe(batch_size=4), seed).of(5 * number + step)]

    torch.manual_seed(1)
    first = epoch(0, seed=0)
    torch.manual_seed(2)
    assert epoch(0, seed=0) == first
    orders = {tuple(epoch(number, seed)) for number in range(4) for seed in range(4)}
    assert len(orders) == 16


@settings(max_examples=60, deadline=None)
@given(views=st.lists(st.integers(1, 6), min_size=1, max_size=9), block=st.integers(1, 5), seed=st.integers(0, 99))
def test_blocks_of_scenes_are_seen_one_after_the_other_and_mixed_within(
    views: list[int], block: int, seed: int
) -> None:
    scenes = [3 * scene for scene, count in enumerate(views) for _ in range(count)]
    recipe = Recipe(batch_size=1, block_scenes=block)
    order = Order(len(scenes), recipe, seed, scenes)
    seen = [order.of(step)[0] for step in range(len(scenes))]
    assert sorted(seen) == list(range(len(scenes)))
    left = Counter(scenes)
    open_scenes: set[int] = set()
    for index in seen:
        open_scenes.add(scenes[index])
        left[scenes[index]] -= 1
        assert len(open_scenes) <= block
        if len(open_scenes) == block and all(left[scene] == 0 for scene in open_scenes):
            open_scenes = set()


def test_blocks_come_in_another_order_in_every_epoch_and_views_are_mixed() -> None:
    scenes = [scene for scene in range(6) for _ in range(10)]
    order = Order(60, Recipe(batch_size=10, block_scenes=2), 0, scenes)
    firsts = {tuple(dict.fromkeys(scenes[i] for step in range(6) for i in order.of(6 * e + step))) for e in range(5)}
    assert len(firsts) == 5
    assert len({scenes[i] for i in order.of(0)}) == 2


def test_without_blocks_the_order_is_that_of_before() -> None:
    expected = torch.randperm(20, generator=torch.Generator().manual_seed(_state(7, 1, 0))).tolist()
    assert [i for step in range(5, 10) for i in Order(20, Recipe(batch_size=4), 7).of(step)] == expected


def _state(*key: int) -> int:
    state = 0
    for number in key:
        state = (state * 0x9E3779B97F4A7C15 + number + 1) % (1 << 63)
    return state


def test_a_negative_number_of_scenes_is_refused() -> None:
    with pytest.raises(InputError, match="--block-scenes must be 0 or more, not -1"):
        Recipe(block_scenes=-1).check()
