"""Streams of random numbers that nobody else can move, and a global state that nobody moves by accident."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
import torch

from fit3d_ns.common.randomness import (
    RandomStream,
    generator_state,
    preserved_random_state,
    seed_everything,
    set_generator_state,
)


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))]


def test_a_stream_goes_on_where_it_was_whatever_is_drawn_in_between() -> None:
    undisturbed, disturbed = RandomStream(3), RandomStream(3)
    with undisturbed:
        expected = [draws() for _ in range(3)]
    found = []
    for count in (0, 1, 5):
        for _ in range(count):
            draws()
        with disturbed:
            found.append(draws())
    assert found == expected


def test_a_stream_leaves_the_global_generators_as_they_were() -> None:
    seed_everything(7)
    expected = draws()
    seed_everything(7)
    with RandomStream(1):
        draws()
    assert draws() == expected


def test_streams_of_two_seeds_differ() -> None:
    with RandomStream(1):
        first = draws()
    with RandomStream(2):
        assert all(a != b for a, b in zip(first, draws(), strict=True))


def test_a_stream_goes_on_after_it_was_written_to_a_checkpoint_and_read_as_data() -> None:
    stream, other = RandomStream(5), RandomStream(6)
    with stream:
        draws()
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    with stream:
        expected = draws()
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    other.load_state_dict(state)
    with other:
        assert draws() == expected


def test_a_stream_survives_an_error_inside_it() -> None:
    seed_everything(7)
    expected = draws()
    seed_everything(7)

    def fail() -> None:
        with RandomStream(1):
            draws()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert draws() == expected


def test_a_generator_of_its_own_goes_on_from_its_state() -> None:
    generator, other = random.Random(1), random.Random(2)
    generator.random()
    set_generator_state(other, generator_state(generator))
    assert [generator.random() for _ in range(700)] == [other.random() for _ in range(700)]


def test_what_is_drawn_where_the_state_is_preserved_changes_nothing_outside() -> None:
    seed_everything(7)
    expected = draws()
    seed_everything(7)
    with preserved_random_state():
        seed_everything(1)
        draws()
    assert draws() == expected
