"""How features are solved for, as options say it: apart from the solver, so that `--help` imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

WEAK_PULL, STRONG_PULL = 0.02, 4.0
"""`LiftOptions.regularization` where none is given: without and with a position term."""


@dataclass(frozen=True)
class LiftOptions:
    """How features are solved for. The defaults are what a run of `fit3d-features-fast` uses."""

    regularization: float | None = None
    """Pull towards the back-projection, in cells: a Gaussian that fills so many cells in all views together is half
    free. None: 4 with a position term, where the back-projection is sharp and a strong pull keeps speckle out of views
    from elsewhere; 0.02 without."""
    tolerance: float = 3e-2
    """Stop when the preconditioned residual of the normal equations has fallen to this share of what it is at the
    back-projection."""
    max_iterations: int = 50
    """Upper bound of conjugate-gradient steps per round of robust weights."""
    robust_scale: float | None = 2.0
    """Distances beyond this many medians count linearly and not squared (Huber); None: all are squared."""
    reweightings: int = 1
    """Times the robust weights are found anew from the solution, after those from the back-projection."""
    min_weight: float = 1e-4
    """Gaussians that cover less than this many cells in all views together count as unseen."""

    @property
    def pull(self) -> float:
        """The regularization, as a number."""
        return WEAK_PULL if self.regularization is None else self.regularization


DEFAULT_OPTIONS = LiftOptions()
