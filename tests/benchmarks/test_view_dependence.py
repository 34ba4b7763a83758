"""The page about the position term."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import view_dependence
from benchmarks.lifting import Reached
from benchmarks.view_dependence import AFTER, BEFORE, WAYS, Compared, Measured, page, speckle, trained_cosine
from fit3d_ns.features.space import full_space
from fit3d_ns.lifting.maps import LiftedFeatures
from tests.fit3d_ns.lifting.scenes import small_scene


def test_the_page_says_how_much_better_every_scene_got() -> None:
    ways = {name: Measured(0.5 + 0.1 * index, 8 / 2**index, 1.0) for index, name in enumerate(WAYS)}
    assert list(WAYS)[-2:] == [BEFORE, AFTER]
    [_, _, line] = page({"room": Compared(ways, 0.4)})
    assert line.startswith("| room | 0.4000 | 0.5000 | 0.6000 | 0.7000 | 8.00 | 4.00 | 2.00 | 1.0 |")
    assert line.endswith("| +0.1000 | × 0.50 |")


def test_training_stops_when_its_time_is_spent_and_its_best_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = [Reached(1.0, 0.2), Reached(2.0, 0.6), Reached(3.0, 0.5), Reached(4.0, 0.9)]
    monkeypatch.setattr(view_dependence, "training", lambda *_: iter(reached))
    monkeypatch.setattr(view_dependence, "fit_space", lambda *_: None)
    problem = SimpleNamespace(train=SimpleNamespace(maps=None))
    assert trained_cosine(problem, 3.0) == 0.6  # type: ignore[arg-type]


def test_speckle_grows_with_what_gaussians_disagree_in() -> None:
    geometry, views = small_scene(n=300, size=0.4)
    problem = SimpleNamespace(splats=geometry, test=SimpleNamespace(cameras=views))

    def of(features: torch.Tensor) -> float:
        space = full_space(torch.zeros(features.shape[1]))
        seen = torch.ones(300, dtype=torch.bool)
        return speckle(problem, LiftedFeatures(features, torch.zeros(300), seen, space, 0.0, 0))  # type: ignore[arg-type]

    features = torch.randn(300, 4)
    assert of(2 * features) == 2 * of(features)
    assert of(features + 3) > of(torch.full((300, 4), 3.0))
