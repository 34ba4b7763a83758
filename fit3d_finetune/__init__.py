"""Fine-tuning of 2D backbones on 3D-consistent features, and the probes that tell whether they got better."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fit3d_finetune.backbone.adapter import apply_adapter as apply_adapter
    from fit3d_finetune.backbone.adapter import merge_adapter as merge_adapter
    from fit3d_finetune.backbone.extract import extract_features as extract_features
    from fit3d_finetune.backbone.geometry import GeometryReader as GeometryReader
    from fit3d_finetune.backbone.geometry import load_geometry as load_geometry
    from fit3d_finetune.backbone.geometry import predict_depth as predict_depth
    from fit3d_finetune.backbone.hub import FeatureAssembly as FeatureAssembly
    from fit3d_finetune.backbone.hub import load as load

__all__ = [
    "FeatureAssembly",
    "GeometryReader",
    "apply_adapter",
    "extract_features",
    "load",
    "load_geometry",
    "merge_adapter",
    "predict_depth",
]

_HOMES = {
    "FeatureAssembly": "hub",
    "GeometryReader": "geometry",
    "apply_adapter": "adapter",
    "extract_features": "extract",
    "load": "hub",
    "load_geometry": "geometry",
    "merge_adapter": "adapter",
    "predict_depth": "geometry",
}


def __getattr__(name: str) -> Any:
    # Late, so that importing the package costs nothing.
    if name in _HOMES:
        return getattr(import_module(f"fit3d_finetune.backbone.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
