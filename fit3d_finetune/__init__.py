"""Fine-tuning of 2D backbones on 3D-consistent features, and the probes that tell whether they got better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fit3d_finetune.backbone.hub import FeatureAssembly as FeatureAssembly
    from fit3d_finetune.backbone.hub import load as load

__all__ = ["FeatureAssembly", "load"]


def __getattr__(name: str) -> Any:
    # Late, so that importing the package costs nothing.
    if name in __all__:
        from fit3d_finetune.backbone import hub

        return getattr(hub, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
