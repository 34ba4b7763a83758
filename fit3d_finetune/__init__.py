"""Fine-tuning of 2D backbones on 3D-consistent features, and the probes that tell whether they got better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fit3d_finetune.backbone.hub import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Late, so that importing the package costs nothing.
    if name == "load":
        from fit3d_finetune.backbone.hub import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
