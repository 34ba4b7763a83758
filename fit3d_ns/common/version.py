"""Which fit3d this is: the version of the installed package, which pyproject.toml alone states."""

from __future__ import annotations

import importlib.metadata


def installed_version() -> str:
    """E.g. "1.2.3"; "0+unknown" for a source tree on the path that was never installed."""
    try:
        return importlib.metadata.version("fit3d")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
