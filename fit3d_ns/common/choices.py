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

FeatureChoice = Literal["original", "finetuned", "both"]
"""Of `fit3d_finetune.backbone.extract`. Whose features: one backbone's [B, C, h, w], or both concatenated
[B, 2 C, h, w], the original's first."""

CameraModel = Literal["OPENCV", "SIMPLE_RADIAL", "RADIAL", "OPENCV_FISHEYE"]
"""Of `fit3d_ns.reconstruction.engine`: lenses, by COLMAP's names."""

Mapper = Literal["incremental", "global"]
"""Of `fit3d_ns.reconstruction.engine`: poses of photo after photo, or of all at once."""
