"""Runs trained with release 0.1 still load: their config.yml names our classes by the modules of that release.

nerfstudio's config.yml stores classes by module and name. Release 0.1 kept all modules side by side; this table is
the only place that still knows. Modules are aliased, not copied, so that a class has one identity under both names.
"""

from __future__ import annotations

import importlib
import sys

MOVED = {
    "fit3d_ns.backbone": "fit3d_ns.features.backbone",
    "fit3d_ns.config": "fit3d_ns.method.config",
    "fit3d_ns.datamanager": "fit3d_ns.method.datamanager",
    "fit3d_ns.model": "fit3d_ns.method.model",
    "fit3d_ns.model_config": "fit3d_ns.method.model",
    "fit3d_ns.pipeline": "fit3d_ns.method.pipeline",
    "fit3d_ns.trainer": "fit3d_ns.method.trainer",
}
"""Module of release 0.1 -> module that has its classes now. Only those that a config.yml can name."""


def register() -> None:
    """Let `import` find the modules of release 0.1 under their old names; needs all of them to be importable now."""
    for old, new in MOVED.items():
        sys.modules.setdefault(old, importlib.import_module(new))
