"""What some commands need that others do without."""

from __future__ import annotations

import importlib.util

from fit3d_ns.common.errors import InputError


def require_nerfstudio(user: str) -> None:
    """Check that nerfstudio is installed, without importing it.

    Args:
        user: what needs it, as the message begins: "--load-config needs".

    Raises:
        InputError: it is not.
    """
    if importlib.util.find_spec("nerfstudio") is None:
        raise InputError(f"{user} nerfstudio, which is not installed here: see docs/installing.md.")
