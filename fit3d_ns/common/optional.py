"""Packages that only some uses need."""

from __future__ import annotations

import importlib
from typing import Any

from fit3d_ns.common.errors import InputError


def require_package(name: str, user: str, requirement: str) -> Any:
    """Import a package.

    Args:
        user: what needs it, as the message begins: "--engine ray needs".
        requirement: as pip takes it: "ray>=2.40".

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{user} the package {name}: pip install '{requirement}'.") from error
