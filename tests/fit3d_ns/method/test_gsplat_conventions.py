"""What of gsplat's behaviour the method is built on; a gsplat that changed it must fail here and not in a training.

gsplat 1.5 gives radii two columns, and from 1.5.3 on its strategy never resets opacities (see docs/overrides.md).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gsplat.cuda._torch_impl import _fully_fused_projection
from gsplat.strategy import DefaultStrategy

from fit3d_ns.method.densification import CappedStrategy
from fit3d_ns.rasterization import rasterization


def projected_radii(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Radii of the same Gaussians before one camera: gsplat's own (its torch twin) and ours."""
    means = torch.randn(count, 3) * 0.3 + torch.tensor([0.0, 0.0, 4.0])
    quats = torch.nn.functional.normalize(torch.randn(count, 4), dim=-1)
    scales = torch.rand(count, 3) * 0.2 + 0.05
    viewmats = torch.eye(4)[None]
    Ks = torch.tensor([[60.0, 0.0, 32.0], [0.0, 60.0, 24.0], [0.0, 0.0, 1.0]])[None]
    rotations = torch.stack([torch.diag(row) for row in scales.square()])  # any covariance will do
    theirs = _fully_fused_projection(means, rotations, viewmats, Ks, 64, 48)[0]
    _, _, info = rasterization(means, quats, scales, torch.rand(count), torch.rand(count, 3), viewmats, Ks, 64, 48)
    return theirs, info["radii"]


def test_radii_have_one_column_in_gsplat_as_in_our_rasteriser() -> None:
    theirs, ours = projected_radii(50)
    assert theirs.shape == ours.shape == (1, 50)
    assert theirs.dtype == ours.dtype == torch.int32


@pytest.mark.parametrize("count", [2, 50])  # two columns of two Gaussians would broadcast without a word
def test_radii_of_two_columns_are_refused(count: int) -> None:
    strategy = CappedStrategy()
    means2d = torch.rand(1, count, 2)
    means2d.grad = torch.rand(1, count, 2)
    info: dict[str, Any] = {"width": 64, "height": 48, "n_cameras": 1, "gaussian_ids": None, "means2d": means2d}
    state, params = strategy.initialize_state(), {"means": torch.zeros(count, 3)}
    strategy._update_state(params, state, info | {"radii": torch.ones(1, count, dtype=torch.int32)})
    with pytest.raises(ValueError, match=r"gsplat 1\.4"):
        strategy._update_state(params, state, info | {"radii": torch.ones(1, count, 2, dtype=torch.int32)})


@pytest.mark.parametrize("kind", [DefaultStrategy, CappedStrategy])
def test_opacities_are_reset_when_they_are_due(kind: type[DefaultStrategy]) -> None:
    strategy = kind(reset_every=30, refine_start_iter=1_000, verbose=False)
    params = torch.nn.ParameterDict({"opacities": torch.full((4,), 3.0), "means": torch.zeros(4, 3)})
    optimizers = {name: torch.optim.Adam([value]) for name, value in params.items()}
    state = strategy.initialize_state()
    for step in (29, 30):
        means2d = torch.rand(1, 4, 2)
        means2d.grad = torch.zeros(1, 4, 2)
        radii = torch.ones(1, 4, dtype=torch.int32)
        info = {"width": 64, "height": 48, "n_cameras": 1, "radii": radii, "gaussian_ids": None, "means2d": means2d}
        strategy.step_post_backward(params, optimizers, state, step, info)
        reset = bool((params["opacities"] < 0).all())
        assert reset == (step == 30)
