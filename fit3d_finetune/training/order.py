"""Which samples a step sees: it follows from the seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fit3d_finetune.training.recipe import Recipe


class Order:
    """The samples of every optimiser step: consecutive pieces of one random order of all samples per epoch.

    The last step of an epoch has what is left, if the recipe keeps it. With `block_scenes`, the order goes through the
    scenes in blocks of so many, in a random order of scenes, and is random within a block: all views of a block are
    seen before the next one begins, so that targets of few scenes at a time are read.

    Args:
        count: of samples.
        recipe: batches, and blocks of scenes.
        seed: of the order.
        scenes: of every sample; needed for blocks alone.
    """

    def __init__(self, count: int, recipe: Recipe, seed: int, scenes: Sequence[int] = ()) -> None:
        self.count, self.recipe, self.seed = count, recipe, seed
        self.scenes = torch.tensor(scenes, dtype=torch.int64)
        self._last: tuple[int, torch.Tensor] | None = None

    def of(self, step: int) -> list[int]:
        """The samples of a step, from 0 on."""
        per_step = self.recipe.batch_size * self.recipe.accumulate
        epoch, place = divmod(step, steps_per_epoch(self.count, self.recipe))
        last = self._last  # another thread may set the next one meanwhile
        if last is None or last[0] != epoch:
            last = self._last = (epoch, self._epoch(epoch))
        found: list[int] = last[1][place * per_step : (place + 1) * per_step].tolist()
        return found

    def _epoch(self, epoch: int) -> torch.Tensor:
        order = torch.randperm(self.count, generator=generator(self.seed, epoch, 0))
        if self.recipe.block_scenes == 0:
            return order
        scenes = self.scenes.unique()
        shuffled = torch.randperm(len(scenes), generator=generator(self.seed, epoch, 2))
        block_of = torch.empty(int(scenes.max()) + 1, dtype=torch.int64)
        block_of[scenes[shuffled]] = torch.arange(len(scenes)) // self.recipe.block_scenes
        return order[block_of[self.scenes[order]].argsort(stable=True)]


def steps_per_epoch(count: int, recipe: Recipe) -> int:
    """Optimiser steps in which all of so many samples are seen, or all but a remainder; at least one."""
    whole, rest = divmod(count, recipe.batch_size * recipe.accumulate)
    return max(1, whole if recipe.last_batch == "drop" else whole + bool(rest))


def generator(*key: int) -> torch.Generator:
    """A generator that depends on all numbers of `key`, unlike a sum of them."""
    state = 0
    for number in key:
        state = (state * 0x9E3779B97F4A7C15 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(state)
