"""The page about the position term."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from benchmarks.view_dependence import AFTER, BEFORE, WAYS, Measured, page, speckle
from fit3d_ns.features.space import full_space
from fit3d_ns.lifting.maps import LiftedFeatures
from tests.fit3d_ns.lifting.scenes import small_scene


def test_the_page_says_how_much_better_every_scene_got() -> None:
    ways = {name: Measured(0.5 + 0.1 * index, 8 / 2**index, 1.0) for index, name in enumerate(WAYS)}
    assert list(WAYS)[-2:] == [BEFORE, AFTER]
    [_, _, line] = page({"room": ways})
    assert line.startswith("| room | 0.5000 | 0.6000 | 0.7000 | 8.00 | 4.00 | 2.00 | 1.0 |")
    assert line.endswith("| +0.1000 | × 0.50 |")


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
