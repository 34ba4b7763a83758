"""Normals of depth maps against surfaces whose normals are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fit3d_ns.scene.normals import normals_from_depth, plane_normals

HEIGHT, WIDTH = 30, 40
K = torch.tensor([[45.0, 0.0, 21.0], [0.0, 50.0, 14.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def rays() -> Tensor:
    """[H, W, 3] through the centres of the pixels, with z = 1."""
    y, x = torch.meshgrid(
        torch.arange(HEIGHT, dtype=torch.float64) + 0.5, torch.arange(WIDTH, dtype=torch.float64) + 0.5, indexing="ij"
    )
    return torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)], dim=-1)


def plane_depth(normal: Tensor, distance: float) -> Tensor:
    """Depth of the plane normal . X = -distance, seen by the camera."""
    return -distance / (rays() @ normal)


def turned(x: float, y: float) -> Tensor:
    """The unit normal along (x, y, -1)."""
    return torch.nn.functional.normalize(torch.tensor([x, y, -1.0], dtype=torch.float64), dim=0)


@st.composite
def seen_planes(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """The normal and the depth of a plane that every pixel sees."""
    normal = turned(draw(st.floats(-0.6, 0.6)), draw(st.floats(-0.6, 0.6)))
    depth = plane_depth(normal, draw(st.floats(0.1, 100)))
    assume(bool((depth > 0).all()))
    return normal, depth


@settings(max_examples=50, deadline=None)
@given(plane=seen_planes())
def test_normals_of_a_plane_are_exact_up_to_its_edges(plane: tuple[Tensor, Tensor]) -> None:
    normal, depth = plane
    # 45 pixels of focal length: on a steep plane neighbours differ by more than a fine picture's would.
    found, has = normals_from_depth(depth, K, max_jump=0.5)
    assert has.all()
    torch.testing.assert_close(found, normal.expand(HEIGHT, WIDTH, 3), atol=1e-9, rtol=0)


def test_normals_of_a_sphere_point_away_from_its_centre() -> None:
    centre, radius = torch.tensor([0.1, -0.05, 3.0], dtype=torch.float64), 1.0
    toward = rays()
    a, b, c = (toward**2).sum(-1), (toward @ centre), (centre**2).sum() - radius**2
    inside = b**2 - a * c
    depth = torch.where(inside > 0, (b - inside.clamp_min(0).sqrt()) / a, 0.0)
    found, has = normals_from_depth(depth, K)
    expected = (toward * depth[..., None] - centre) / radius
    facing = has & ((expected * torch.nn.functional.normalize(toward, dim=-1)).sum(-1) < -0.5)
    assert facing.sum() > 150
    cosine = (found * expected).sum(-1)[facing]
    assert cosine.min() > 0.99, "one-sided differences at the rim are the worst"
    assert torch.rad2deg(torch.acos(cosine.clamp(max=1))).mean() < 1


def test_a_step_between_two_walls_does_not_tilt_either() -> None:
    depth = torch.full((HEIGHT, WIDTH), 2.0, dtype=torch.float64)
    depth[:, WIDTH // 2 :] = 3.0
    found, has = normals_from_depth(depth, K)
    assert has.all()
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64).expand_as(found))


@pytest.mark.parametrize("unknown", [0.0, float("nan"), float("inf"), -1.0])
def test_where_depth_is_unknown_there_is_no_normal_and_none_is_spoilt(unknown: float) -> None:
    depth = torch.full((HEIGHT, WIDTH), 2.0, dtype=torch.float64)
    depth[10:12, 10:14] = unknown
    depth[20:23, 20:23] = unknown
    depth[21, 21] = 2.0  # an island without neighbours
    found, has = normals_from_depth(depth, K)
    holes = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    holes[10:12, 10:14] = holes[20:23, 20:23] = True
    assert torch.equal(has, ~holes)
    assert (found[holes] == 0).all()
    torch.testing.assert_close(
        found[~holes], torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64).expand(len(found[~holes]), 3)
    )


@settings(max_examples=30, deadline=None)
@given(plane=seen_planes())
def test_fitted_planes_are_exact_on_a_plane(plane: tuple[Tensor, Tensor]) -> None:
    normal, depth = plane
    found, flat = plane_normals(depth, K, (3, 4))
    torch.testing.assert_close(found, normal.expand(3, 4, 3), atol=1e-5, rtol=0)
    assert flat.min() > 0.999


def test_noise_that_spoils_the_normals_of_pixels_leaves_those_of_planes() -> None:
    normal = turned(0.3, -0.2)
    noise = torch.randn(HEIGHT, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    depth = plane_depth(normal, 3.0) * (1 + 0.01 * noise)
    depth[::7, ::5] *= 1.5  # floaters
    pixels, has = normals_from_depth(depth, K, max_jump=1.0)
    planes, flat = plane_normals(depth, K, (3, 4))

    def degrees(found: Tensor) -> float:
        return float(torch.rad2deg(torch.acos((found @ normal).clamp(-1, 1))).mean())

    assert degrees(pixels[has]) > 15
    assert degrees(planes) < 3
    assert 0 < flat.min() <= flat.max() < 0.6, "noise of one per cent and floaters"


def test_patches_across_a_step_count_less_than_those_beside_it_and_follow_the_larger_side() -> None:
    depth = torch.full((40, 120), 2.0, dtype=torch.float64)
    depth[:, 57:] = 3.0
    found, flat = plane_normals(depth, K, (4, 12))
    assert flat[:, :4].min() > 0.99
    assert flat[:, 7:].min() > 0.99
    assert flat[:, 5].max() < 0.1
    ahead = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    assert (found[:, :4] @ ahead).min() > 0.999


@pytest.mark.parametrize("unknown", [0.0, float("nan"), float("inf"), -1.0])
def test_planes_are_fitted_to_what_is_known(unknown: float) -> None:
    depth = torch.full((40, 80), 2.0, dtype=torch.float64)
    depth[:, 40:] = unknown
    depth[::3, ::3] = unknown
    found, flat = plane_normals(depth, K, (4, 8))
    ahead = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(found[:, :4], ahead.expand(4, 4, 3), atol=1e-6, rtol=0)
    assert (found[:, 6:] == 0).all()
    assert (flat[:, 6:] == 0).all()
    assert flat[:, :4].min() > 0.999
