"""Seeds of random numbers, as users give them."""

from __future__ import annotations

from fit3d_ns.common.errors import InputError

_LARGEST = 2**31 - 1


def require_seed(seed: int, option: str) -> None:
    """Check that every random generator that we use takes a seed.

    Raises:
        InputError: it is not in 0..2**31 - 1.
    """
    if not 0 <= seed <= _LARGEST:
        raise InputError(f"{option} must lie in 0 to {_LARGEST}, not {seed}.")
