"""fit3d: dense backbone features lifted into 3D Gaussians (the nerfstudio method and the shared half)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fit3d_ns.features.backbone import BackboneConfig as BackboneConfig
    from fit3d_ns.features.backbone import load_backbone as load_backbone
    from fit3d_ns.rasterization import rasterization as rasterization
    from fit3d_ns.scene.gaussians import FeatureGaussians as FeatureGaussians

    __version__: str

__all__ = ["BackboneConfig", "FeatureGaussians", "__version__", "load_backbone", "rasterization"]


def __getattr__(name: str) -> Any:
    # Late, so that importing the package costs nothing.
    if name == "__version__":
        from fit3d_ns.common.version import installed_version

        return installed_version()
    if name == "FeatureGaussians":
        from fit3d_ns.scene.gaussians import FeatureGaussians

        return FeatureGaussians
    if name in ("BackboneConfig", "load_backbone"):
        from fit3d_ns.features import backbone

        return getattr(backbone, name)
    if name == "rasterization":
        # Its package, which is called like the function in it: the same object, whichever was asked for first.
        from importlib import import_module

        return import_module("fit3d_ns.rasterization")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
