"""The solver against dense float64 least squares, planted features, corrupted views, and its own promises."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fit3d_ns.lifting.operator import RenderOperator, SparseOperator, cell_weights
from fit3d_ns.lifting.solver import CHANNEL_BLOCK, LiftOptions, back_project, num_solves, solve_features
from tests.fit3d_ns.lifting.scenes import GRID, dense, least_squares, small_scene

EXACT = LiftOptions(tolerance=1e-6, max_iterations=500, robust_scale=None, min_weight=0.0)


def objective(matrix: Tensor, features: Tensor, targets: Tensor, weights: Tensor, prior: Tensor, pull: float) -> float:
    misfit = (matrix @ features.double() - targets.double()).square().sum(1)
    return float((weights.double() * misfit).sum() + pull * (features.double() - prior.double()).square().sum())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), pull=st.sampled_from([0.003, 0.02, 0.5]), masked=st.booleans())
def test_the_solution_is_the_dense_least_squares_solution(seed: int, pull: float, masked: bool) -> None:
    torch.manual_seed(seed)
    geometry, views = small_scene(seed=seed, masked=masked)
    operator, weights = SparseOperator.build(geometry, views), cell_weights(views)
    targets = torch.randn(operator.num_cells, 5)
    options = LiftOptions(pull, 1e-6, 500, None, 0, 0.0)
    features = solve_features(operator, targets, weights, options).features
    prior, _ = back_project(operator, targets, weights)
    expected = least_squares(dense(operator), targets, weights, pull, prior)
    assert float((features - expected).norm() / expected.norm()) < 1e-3


def test_both_forms_of_the_operator_lead_to_the_same_features() -> None:
    geometry, views = small_scene(masked=True, n=120)
    targets = torch.randn(3 * 12, 6)
    weights = cell_weights(views)
    options = LiftOptions(tolerance=1e-5, max_iterations=200)
    sparse = solve_features(SparseOperator.build(geometry, views), targets, weights, options)
    rendered = solve_features(RenderOperator(geometry, views), targets, weights, options)
    assert float((sparse.features - rendered.features).norm() / sparse.features.norm()) < 1e-3
    assert torch.equal(sparse.seen, rendered.seen)


def test_planted_features_are_found_again() -> None:
    # More cells than Gaussians, and no pull away from the truth.
    geometry, views = small_scene(n=40, views=4, grid=(40, 56), size=0.3)
    operator = SparseOperator.build(geometry, views)
    planted = torch.randn(40, 8)
    weights = cell_weights(views)
    options = LiftOptions(1e-4, 1e-6, 1000, None, 0)
    result = solve_features(operator, operator.apply(planted), weights, options)
    well_seen = operator.transpose(weights[:, None])[:, 0] > 5
    assert int(well_seen.sum()) > 20
    torch.testing.assert_close(result.features[well_seen], planted[well_seen], rtol=0, atol=0.02)
    averaged, _ = back_project(operator, operator.apply(planted), weights)
    assert float((averaged - planted)[well_seen].norm()) > 20 * float((result.features - planted)[well_seen].norm())


def test_the_objective_falls_with_every_iteration_and_is_the_true_one() -> None:
    geometry, views = small_scene(n=120, grid=GRID)
    operator, weights = SparseOperator.build(geometry, views), cell_weights(views)
    matrix, targets = dense(operator), torch.randn(operator.num_cells, 4)
    prior, _ = back_project(operator, targets, weights)
    reached = []
    for steps in range(12):
        options = LiftOptions(0.02, 0.0, steps, None, 0, 0.0)
        result = solve_features(operator, targets, weights, options)
        reached.append(objective(matrix, result.features, targets, weights, prior, 0.02))
        assert result.iterations == steps == len(result.objective) - 1
        assert result.objective[-1] == pytest.approx(reached[-1], rel=1e-4)
    assert all(after < before for before, after in itertools.pairwise(reached))


def test_it_stops_at_the_tolerance_or_at_the_last_iteration() -> None:
    geometry, views = small_scene(n=120, grid=GRID)
    operator, weights = SparseOperator.build(geometry, views), cell_weights(views)
    targets = torch.randn(operator.num_cells, 4)

    def iterations(tolerance: float, limit: int) -> int:
        options = LiftOptions(0.02, tolerance, limit, None, 0)
        return solve_features(operator, targets, weights, options).iterations

    loose, tight = iterations(0.1, 500), iterations(1e-4, 500)
    assert 0 < loose < tight < 500
    assert iterations(1e-4, 3) == 3


def test_channels_do_not_depend_on_how_many_are_solved_with_them() -> None:
    geometry, views = small_scene(n=80, grid=GRID)
    operator, weights = SparseOperator.build(geometry, views), cell_weights(views)
    targets = torch.randn(operator.num_cells, CHANNEL_BLOCK + 6)
    together = solve_features(operator, targets, weights, EXACT).features
    alone = solve_features(operator, targets[:, -6:], weights, EXACT).features
    torch.testing.assert_close(together[:, -6:], alone, rtol=1e-3, atol=1e-4)


def test_a_strong_pull_leaves_the_back_projection() -> None:
    geometry, views = small_scene()
    operator, weights = SparseOperator.build(geometry, views), cell_weights(views)
    targets = torch.randn(operator.num_cells, 4)
    prior, _ = back_project(operator, targets, weights)
    features = solve_features(operator, targets, weights, LiftOptions(1e6, 1e-6, 50, None, 0, 0.0)).features
    torch.testing.assert_close(features, prior, rtol=1e-4, atol=1e-4)


def test_what_a_masked_cell_shows_changes_nothing() -> None:
    geometry, views = small_scene(masked=True, grid=GRID)
    operator, weights = SparseOperator.build(geometry, views), cell_weights(views)
    assert 0 < int((weights == 0).sum()) < len(weights)
    targets = torch.randn(operator.num_cells, 4)
    spoilt = torch.where(weights[:, None] > 0, targets, 1e4)
    options = LiftOptions()
    assert torch.equal(
        solve_features(operator, targets, weights, options).features,
        solve_features(operator, spoilt, weights, options).features,
    )


def test_unseen_gaussians_are_marked_and_have_no_feature() -> None:
    geometry, views = small_scene()
    geometry.means[7] = torch.tensor([0.0, 0.0, -50.0])  # behind all cameras
    geometry.opacities[9] = 1e-4  # below what is drawn
    operator = SparseOperator.build(geometry, views)
    result = solve_features(operator, torch.randn(operator.num_cells, 3), cell_weights(views))
    assert not bool(result.seen[[7, 9]].any())
    assert int(result.seen.sum()) > 30
    assert float(result.features[~result.seen].abs().max()) == 0
    assert bool((result.features[result.seen].abs().sum(1) > 0).all())


def test_the_visibility_threshold_counts_cells() -> None:
    geometry, views = small_scene()
    operator, weights = SparseOperator.build(geometry, views), cell_weights(views)
    cover = operator.transpose(weights[:, None])[:, 0]
    limit = float(cover.median())
    options = LiftOptions(robust_scale=None, min_weight=limit)
    seen = solve_features(operator, torch.randn(operator.num_cells, 3), weights, options).seen
    assert torch.equal(seen, cover > limit)


def test_robust_weights_resist_a_corrupted_view() -> None:
    geometry, views = small_scene(n=40, views=6, grid=GRID, size=0.3)
    operator, weights = SparseOperator.build(geometry, views), cell_weights(views)
    planted = torch.randn(40, 8)
    targets = operator.apply(planted) + 0.05 * torch.randn(operator.num_cells, 8)
    cells = GRID[0] * GRID[1]
    targets[2 * cells : 3 * cells] = 5 * torch.randn(cells, 8)
    well_seen = operator.transpose(weights[:, None])[:, 0] > 1
    errors = {}
    for scale in (None, 2.0):
        options = LiftOptions(0.02, 1e-4, 300, scale, 3)
        result = solve_features(operator, targets, weights, options)
        errors[scale] = float((result.features - planted)[well_seen].norm())
        robust = result.cell_weights.reshape(6, -1).mean(1)
    assert errors[2.0] < 0.5 * errors[None]
    assert int(robust.argmin()) == 2
    assert float(robust[2]) < 0.5 * float(robust.median())


def test_robust_weights_leave_views_that_agree_alone() -> None:
    geometry, views = small_scene(n=40, views=4, grid=GRID, size=0.3)
    operator, weights = SparseOperator.build(geometry, views), cell_weights(views)
    targets = operator.apply(torch.randn(40, 8)) + 0.3 * torch.randn(operator.num_cells, 8)
    counted = solve_features(operator, targets, weights, LiftOptions(regularization=0.5)).cell_weights
    assert float((counted == 1).float().mean()) > 0.85


def test_the_same_problem_gives_the_same_bits_twice() -> None:
    geometry, views = small_scene(n=200)
    weights = cell_weights(views)
    targets = torch.randn(len(weights), 70)
    first, second = (solve_features(SparseOperator.build(geometry, views), targets, weights) for _ in range(2))
    assert torch.equal(first.features, second.features)


def test_progress_is_told_as_often_as_announced() -> None:
    geometry, views = small_scene()
    weights = cell_weights(views)
    for options in (LiftOptions(), LiftOptions(robust_scale=None)):
        told: list[None] = []
        targets = torch.randn(len(weights), 130)
        operator = SparseOperator.build(geometry, views)
        solve_features(operator, targets, weights, options, lambda told=told: told.append(None))  # type: ignore[misc]
        assert len(told) == num_solves(130, options)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_targets_need_no_iterations_or_nan(value: float) -> None:
    geometry, views = small_scene()
    weights = cell_weights(views)
    targets = torch.full((len(weights), 3), value)
    targets[:, 1] = 0
    features = solve_features(SparseOperator.build(geometry, views), targets, weights).features
    assert bool(features.isfinite().all())
    assert float(features[:, 1].abs().max()) == 0


def test_nothing_but_masked_cells_gives_no_features_and_no_nan() -> None:
    geometry, views = small_scene()
    operator = SparseOperator.build(geometry, views)
    result = solve_features(operator, torch.randn(operator.num_cells, 3), torch.zeros(operator.num_cells))
    assert not bool(result.seen.any())
    assert float(result.features.abs().max()) == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    operator = SparseOperator.build(*small_scene())
    with pytest.raises(ValueError, match="as many targets"):
        solve_features(operator, torch.randn(5, 3), torch.ones(5))
