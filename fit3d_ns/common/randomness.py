"""Random numbers that depend on nothing but their seed.

torch, numpy and Python each have one global generator, and libraries draw from it: building a network, a viewer, a
first evaluation. Whatever draws more or fewer numbers before would change all that follow. So what must repeat draws
from a `RandomStream` of its own, and what only happens to draw leaves the caller's state alone
(`preserved_random_state`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Any]
"""Plain tensors and numbers, so that checkpoints can hold it and be read as data."""


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator_state(generator: random.Random) -> Tensor:
    """State of a generator of Python's as int64 [626]: its version and 625 words."""
    return _as_tensor(generator.getstate())


def set_generator_state(generator: random.Random, state: Tensor) -> None:
    """Bring a generator to what `generator_state` returned."""
    generator.setstate(_as_state(state))


def _as_tensor(state: tuple[Any, ...]) -> Tensor:
    version, words, gauss = state
    if gauss is not None:
        raise ValueError("random.gauss draws in pairs, and half a pair is left: draw with normalvariate instead")
    return torch.tensor([version, *words], dtype=torch.int64)


def _as_state(state: Tensor) -> tuple[Any, ...]:
    version, *words = state.tolist()
    return version, tuple(words), None


def _global_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_global_state(state: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Whatever is drawn inside, the global generators are afterwards as they were before."""
    before = _global_state()
    try:
        yield
    finally:
        _set_global_state(before)


class RandomStream:
    """Global generators of one's own: inside `with stream:` they go on where the last `with` left them.

    For code that draws from the global generators and cannot be handed one (nerfstudio, gsplat). What others draw in
    between changes nothing here, and what is drawn here changes nothing for them. Not for several threads at once.
    """

    def __init__(self, seed: int) -> None:
        with preserved_random_state():
            seed_everything(seed)
            self._state = _global_state()

    def __enter__(self) -> RandomStream:
        self._outside = _global_state()
        _set_global_state(self._state)
        return self

    def __exit__(self, *_: object) -> None:
        self._state = _global_state()
        _set_global_state(self._outside)

    def state_dict(self) -> State:
        """Where the stream is, as tensors and numbers."""
        python, numpy, cpu, cuda = self._state
        _, words, position, has_gauss, gauss = numpy
        return {
            "python": _as_tensor(python),
            "numpy": torch.from_numpy(words.astype(np.int64)),
            "numpy_position": [int(position), int(has_gauss), float(gauss)],
            "torch": cpu,
            "cuda": list(cuda),
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from what `state_dict` returned; devices that were not there then keep their state."""
        position, has_gauss, gauss = state["numpy_position"]
        numpy = ("MT19937", state["numpy"].numpy().astype(np.uint32), int(position), int(has_gauss), float(gauss))
        cuda = state["cuda"] if len(state["cuda"]) == len(self._state[3]) else self._state[3]
        self._state = _as_state(state["python"]), numpy, state["torch"], cuda
