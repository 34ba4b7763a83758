"""What options of commands choose from, where the modules that act on it import torch: `--help` need not."""

from __future__ import annotations

from typing import Literal

DeviceChoice = Literal["auto", "cpu", "cuda"]
"""Of `fit3d_ns.common.device`."""

RasterizeMode = Literal["classic", "antialiased"]
"""Of `fit3d_ns.rasterization`."""

FeatureStorage = Literal["fp16", "int8"]
"""Of `fit3d_ns.scene.storage`."""

ViewDependence = Literal["none", "position"]
"""How features depend on the view that sees them: not at all, or by the position term
(`fit3d_ns.features.position`)."""
