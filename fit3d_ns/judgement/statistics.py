"""Which of many views is unlike the others, by median and median deviation: the odd ones do not move the measure."""

from __future__ import annotations

import numpy as np

_NORMAL = 1.4826
"""From the median absolute deviation to the standard deviation, for a normal distribution."""


def deviations(values: np.ndarray, least_scale: float) -> np.ndarray:
    """How many robust standard deviations each value [V] lies above the median; NaN stays.

    Args:
        values: one per view; NaN where a view has none.
        least_scale: a standard deviation is taken to be at least this: in a scene where all views are alike, small
            differences are no fault.
    """
    known = values[np.isfinite(values)]
    if known.size == 0:
        return np.full_like(values, np.nan)
    centre = np.median(known)
    scale = max(_NORMAL * float(np.median(np.abs(known - centre))), least_scale, 1e-9)
    return (values - centre) / scale
