"""Which Gaussians controls leave: monotonous in every limit, and all of them at the sliders' ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fit3d_ns.method.viewer.selection import DIMMED, NO_DISTANCE_LIMIT, Limits, confident, dimmed, isolated

COUNT = 200


def _scene() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "errors": torch.rand(COUNT, 1, generator=generator) * 1.2,
        "opacities": torch.rand(COUNT, generator=generator),
        "similarities": torch.rand(COUNT, generator=generator) * 2 - 1,
        "means": torch.rand(COUNT, 3, generator=generator) * 2 - 1,
        "point": torch.tensor([0.1, -0.2, 0.3]),
    }


def _left(limits: Limits) -> torch.Tensor:
    scene = _scene()
    left = torch.ones(COUNT, dtype=torch.bool)
    for mask in (
        confident(scene["errors"], scene["opacities"], limits),
        isolated(scene["similarities"], scene["means"], scene["point"], limits),
    ):
        left &= True if mask is None else mask
    return left


LIMITS = st.builds(
    Limits, st.floats(0, 1), st.floats(0, 1), st.floats(-1, 1), st.floats(0, NO_DISTANCE_LIMIT, allow_nan=False)
)


@given(LIMITS, st.sampled_from(["error", "opacity", "similarity", "distance"]), st.floats(0, 1))
def test_what_is_left_grows_with_every_limit_that_is_loosened(limits: Limits, name: str, by: float) -> None:
    sign = 1 if name in ("error", "distance") else -1
    looser = replace(limits, **{name: getattr(limits, name) + sign * by})
    assert not bool((_left(limits) & ~_left(looser)).any())


def test_the_defaults_leave_all() -> None:
    assert bool(_left(Limits()).all())


@pytest.mark.parametrize("name", ["error", "opacity", "similarity", "distance"])
def test_every_limit_alone_leaves_what_keeps_to_it(name: str) -> None:
    scene = _scene()
    values = {
        "error": scene["errors"][:, 0],
        "opacity": -scene["opacities"],
        "similarity": -scene["similarities"],
        "distance": (scene["means"] - scene["point"]).norm(dim=1),
    }[name]
    limit = {"error": 0.5, "opacity": 0.4, "similarity": 0.2, "distance": 0.9}[name]
    bound = limit if name in ("error", "distance") else -limit
    assert torch.equal(_left(Limits(**{name: limit})), values <= bound)


def test_without_a_clicked_point_nothing_is_isolated() -> None:
    scene = _scene()
    assert isolated(None, scene["means"], None, Limits(similarity=0.5, distance=0.1)) is None


def test_dimming_leaves_the_chosen_as_they_are_and_little_of_the_others() -> None:
    logits, bright = torch.randn(COUNT, 1), torch.arange(COUNT) % 3 == 0
    after = dimmed(logits, bright)
    assert torch.equal(after[bright], logits[bright])
    torch.testing.assert_close(torch.sigmoid(after[~bright]), DIMMED * torch.sigmoid(logits[~bright]))
