"""Lifting 2D feature maps into Gaussians whose geometry is fixed: one sparse least-squares problem.

Rendered features on the patch grids are B F (`fit3d_ns.lifting.operator`), so the best features in the sense of least
squares solve

    min over F of  sum_p w_p ||(B F)_p - Y_p||^2 + regularization ||F - F_prior||^2

with Y the backbone's features and w the weights of the cells. F_prior is the normalised back-projection, a weighted
mean of what the views show: it decides where the views do not. The normal equations are solved by preconditioned
conjugate gradients (Hestenes and Stiefel 1952) for all channels at once. The preconditioner is the normaliser of the
back-projection, B^T w: it bounds the row sums of B^T w B, so that all preconditioned eigenvalues lie in 0..1.

Where views disagree (moving things, wrong poses), the sum of squares gives the loudest the most say. The robust weights
make it Huber's loss (Huber 1964) on the distance ||(B F)_p - Y_p||, by iteratively reweighted least squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_ns.lifting.operator import PatchOperator
from fit3d_ns.lifting.options import DEFAULT_OPTIONS, LiftOptions

CHANNEL_BLOCK = 64
"""Channels solved together: their rows fit the caches, and no more than these need working memory."""

_SUMMED_IN_FLOAT32 = 128

SMALLEST_WEIGHT = 1e-12
"""Guards divisions; far below any `LiftOptions.min_weight` of use."""


@dataclass(frozen=True, eq=False)
class LiftResult:
    """Solved features and how they came about."""

    features: Tensor
    """[N, D]; zero where not `seen`."""
    seen: Tensor
    """[N] bool: whether the views together see the Gaussian at all (`LiftOptions.min_weight`)."""
    cell_weights: Tensor
    """[P]: the weights of the last solve, robust ones included."""
    objective: tuple[float, ...]
    """The minimised sum of the last solve, before its first step and after each; of the first channel block if there
    are several."""
    iterations: int
    """Conjugate-gradient steps in all, the longest channel block of each solve."""


def back_project(operator: PatchOperator, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised back-projection: every Gaussian gets the mean of what the views show where it is seen.

    f_i = sum_p w_p B[p, i] y_p / sum_p w_p B[p, i], one Jacobi step of the least-squares problem; the closed-form
    lifting of LUDVIG (arXiv 2410.14462) and Occam's LGS (arXiv 2412.01807), on patches instead of pixels.

    Args:
        operator: B.
        values: y, [P, D].
        weights: w, [P], non-negative.

    Returns:
        features [N, D] (zero where no view sees the Gaussian) and the summed weights [N], in cells.
    """
    total = operator.transpose(weights[:, None])[:, 0]
    features = torch.cat(
        [operator.transpose(block * weights[:, None]) for block in values.split(CHANNEL_BLOCK, dim=1)], dim=1
    )
    seen = total > SMALLEST_WEIGHT
    return torch.where(seen[:, None], features / total.clamp_min(SMALLEST_WEIGHT)[:, None], 0.0), total


def solve_features(
    operator: PatchOperator,
    targets: Tensor,
    weights: Tensor,
    options: LiftOptions = DEFAULT_OPTIONS,
    advance: Callable[[], object] = lambda: None,
) -> LiftResult:
    """The features that render to `targets` best, for all channels at once.

    Args:
        operator: B.
        targets: Y, [P, D], in orthonormal coordinates of the feature space (distances are Euclidean).
        weights: [P], non-negative, e.g. `patch_operator.cell_weights`; zero leaves a cell out.
        options: see there.
        advance: called once per solved channel block, `num_solves(D, options)` times.

    Raises:
        ValueError: if shapes do not fit.
    """
    if targets.shape[0] != operator.num_cells or weights.shape != targets.shape[:1]:
        raise ValueError(
            f"{operator.num_cells} cells need as many targets and weights, not {list(targets.shape)} and "
            f"{list(weights.shape)}"
        )
    targets, weights = targets.float(), weights.float()
    counted = weights
    prior, total = back_project(operator, targets, counted)
    solution = _Solution(prior, (), 0, [])
    steps = 0
    for _ in range(_rounds(options)):
        if options.robust_scale is not None:
            counted = weights * _huber_weights(operator, solution.features, targets, weights, options.robust_scale)
            prior, total = back_project(operator, targets, counted)
        problem = _Problem(operator, counted, total, options)
        # The first round starts at the prior; later ones at the last solution, which new weights move little.
        start = solution if solution.goals else _Solution(prior, (), 0, [])
        solution = _solve(problem, targets, prior, start, advance)
        steps += solution.iterations
    seen = total > max(options.min_weight, SMALLEST_WEIGHT)
    features = torch.where(seen[:, None], solution.features, 0.0)
    return LiftResult(features, seen, counted, solution.objective, steps)


def num_solves(channels: int, options: LiftOptions) -> int:
    """How often `solve_features` calls `advance`."""
    return _rounds(options) * -(-channels // CHANNEL_BLOCK)


def _rounds(options: LiftOptions) -> int:
    return 1 if options.robust_scale is None else 1 + options.reweightings


@dataclass(frozen=True, eq=False)
class _Problem:
    """What the channel blocks of one round have in common."""

    operator: PatchOperator
    weights: Tensor
    """[P]"""
    total: Tensor
    """[N], B^T weights."""
    options: LiftOptions

    @property
    def inverse_preconditioner(self) -> Tensor:
        """[N, 1]"""
        return 1 / (self.total + self.options.pull).clamp_min(SMALLEST_WEIGHT)[:, None]


@dataclass(frozen=True, eq=False)
class _Solution:
    features: Tensor
    objective: tuple[float, ...]
    iterations: int
    goals: list[float]
    """Per channel block, the squared residual to stop at: the first round's decide, for all rounds."""


def _solve(
    problem: _Problem, targets: Tensor, prior: Tensor, start: _Solution, advance: Callable[[], object]
) -> _Solution:
    """One channel block after the other, from `start`."""
    blocks = []
    parts = zip(*(values.split(CHANNEL_BLOCK, 1) for values in (targets, prior, start.features)), strict=True)
    for index, (target, pull, guess) in enumerate(parts):
        goal = start.goals[index] if start.goals else None
        blocks.append(_conjugate_gradients(problem, target, pull, guess, goal))
        advance()
    return _Solution(
        torch.cat([block.features for block in blocks], dim=1),
        blocks[0].objective,
        max(block.iterations for block in blocks),
        [block.goals[0] for block in blocks],
    )


def _conjugate_gradients(
    problem: _Problem, targets: Tensor, prior: Tensor, start: Tensor, goal: float | None
) -> _Solution:
    """Solve (B^T w B + regularization) X = B^T w Y + regularization prior.

    Each channel has its own step lengths: D independent systems of one matrix.

    Args:
        problem: B and w.
        targets: Y, [P, D].
        prior: [N, D].
        start: first X, [N, D].
        goal: stop when the squared preconditioned residual, summed over channels, is no more than this; None: at
            `LiftOptions.tolerance` (squared) of its start.
    """
    operator, weights, pull = problem.operator, problem.weights[:, None], problem.options.pull
    inverse = problem.inverse_preconditioner
    misfit, away = targets - operator.apply(start), start - prior
    solution = start.clone()
    residual = operator.transpose(misfit * weights).sub_(away, alpha=pull)
    objectives = [float((weights * misfit.square()).sum(dtype=torch.float64) + pull * away.double().square().sum())]
    direction = inverse * residual
    rho = _dots(residual, direction)
    if goal is None:
        goal = problem.options.tolerance**2 * float(rho.sum())
    while len(objectives) <= problem.options.max_iterations and float(rho.sum()) > goal:
        image = operator.normal(direction, problem.weights).add_(direction, alpha=pull)
        curvature = _dots(direction, image)
        # A channel that is solved to rounding has no direction left.
        step = torch.where(curvature > 0, rho / curvature.clamp_min(1e-300), 0.0)
        solution.addcmul_(direction, step.to(direction))
        residual.addcmul_(image, step.to(direction), value=-1)
        # f(x + a d) = f(x) - a r.d with the a that minimises it.
        objectives.append(objectives[-1] - float((step * rho).sum()))
        conditioned = inverse * residual
        rho, before = _dots(residual, conditioned), rho
        ratio = torch.where(before > 0, rho / before.clamp_min(1e-300), 0.0)
        direction.mul_(ratio.to(direction)).add_(conditioned)
    return _Solution(solution, tuple(objectives), len(objectives) - 1, [goal])


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """[D] float64: the dot product of each channel of two [N, D].

    Short float32 sums first: torch converts all terms to float64 before it adds them, which takes longer than the
    rest of an iteration.
    """
    products = a * b
    blocks = len(products) // _SUMMED_IN_FLOAT32
    whole = products[: blocks * _SUMMED_IN_FLOAT32].view(blocks, _SUMMED_IN_FLOAT32, a.shape[1]).sum(1)
    return whole.sum(0, dtype=torch.float64) + products[blocks * _SUMMED_IN_FLOAT32 :].sum(0, dtype=torch.float64)


def _huber_weights(
    operator: PatchOperator, features: Tensor, targets: Tensor, weights: Tensor, robust_scale: float
) -> Tensor:
    """[P] in 0..1: min(1, threshold / distance), the threshold at `robust_scale` median distances."""
    squares = torch.zeros_like(weights)
    for block, target in zip(features.split(CHANNEL_BLOCK, 1), targets.split(CHANNEL_BLOCK, 1), strict=True):
        squares += (operator.apply(block) - target).square().sum(1)
    distances = squares.sqrt()
    if not bool((weights > 0).any()):
        return torch.ones_like(weights)
    threshold = robust_scale * distances[weights > 0].median()
    return (threshold / distances.clamp_min(1e-30)).clamp(max=1.0)
