"""Lifting a backbone's features into any scene of Gaussians with posed photos: splats and views in, an export out."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
import torch

from fit3d_ns.capture.images import load_mask
from fit3d_ns.capture.lens import undistort_mask
from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import BackboneConfig, backbone_fingerprint, input_size, rule_of
from fit3d_ns.features.cache import FeatureMaps, extract_feature_maps
from fit3d_ns.features.patch_grid import pool_to_patch_grid
from fit3d_ns.features.position import ViewDependence
from fit3d_ns.lifting.maps import held_out_cosine, lift_feature_maps
from fit3d_ns.lifting.solver import DEFAULT_OPTIONS, LiftOptions
from fit3d_ns.scene.description import BackboneInfo, SceneInfo, Split, ViewInfo, resolve
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.photos import load_undistorted_photo
from fit3d_ns.scene.render import render_rgb
from fit3d_ns.scene.splats import TENSORS, Splats
from fit3d_ns.scene.views import PinholeView

REPORT_FILE = "lifting.json"
"""Beside the export: how the features came about."""

FEWEST_SEEN = 0.02
"""Less than this share of Gaussians in view means that Gaussians and cameras are not in the same frame."""


LEAST_PSNR = 12.0
"""Below this many dB between rendered and true colours, Gaussians and photos hardly belong together."""

SPLITS: tuple[Split, ...] = ("train", "eval")

_COMPARED_VIEWS = 4


@dataclass(frozen=True, eq=False)
class LiftScene:
    """Gaussians without features, and the photos to take features from."""

    name: str
    splats: Splats
    views: tuple[ViewInfo, ...]
    """Their `grid` does not matter: it follows from the backbone."""
    images_root: Path
    units: str
    transform: np.ndarray
    """[3, 4], as in `SceneInfo`."""
    scale: float


@dataclass(frozen=True, eq=False)
class PosedMaps:
    """Views with the backbone's features of their photos."""

    views: list[ViewInfo]
    photos: Sequence[np.ndarray]
    """Undistorted, uint8 RGB."""
    maps: FeatureMaps
    cameras: list[PinholeView]
    """At the size that the backbone sees."""


def posed_maps(
    scene: LiftScene,
    split: Split,
    config: BackboneConfig,
    device: torch.device | str = "cpu",
    cache_dir: Path | None = None,
) -> PosedMaps:
    """The backbone's features of a split of the views, from the cache where they are there; see `lift_scene`."""
    views = [view for view in scene.views if view.split == split]
    photos = _Photos(views, scene.images_root)
    for view in views:  # a mask that does not fit is found before the backbone runs
        _load_mask(view, scene.images_root)
    maps = extract_feature_maps(photos, config, cache_dir, device, [view.path for view in views])
    identity = backbone_fingerprint(config)
    pairs = zip(views, maps.grid_sizes, strict=True)
    return PosedMaps(views, photos, maps, [_camera(view, grid, scene.images_root, identity) for view, grid in pairs])


def photos_of(scene: LiftScene) -> Sequence[np.ndarray]:
    """The undistorted photos of all views, read when asked for; masks are looked at now.

    Raises:
        InputError: a mask, or when it is asked for a photo, is not fit for its view.
    """
    for view in scene.views:
        _load_mask(view, scene.images_root)
    return _Photos(scene.views, scene.images_root)


def require_training_views(scene: LiftScene) -> None:
    """Raises: InputError: there are none."""
    if not any(view.split == "train" for view in scene.views):
        raise InputError(f"scene {scene.name} has no training views; lift from a capture with at least one.")


def scene_from_export(directory: Path, images_root: Path | None = None) -> tuple[LiftScene, BackboneInfo]:
    """The scene of an export folder, and the backbone whose features it holds.

    Raises:
        InputError: the export or its images are not as they should be.
    """
    gaussians = FeatureGaussians.load(directory, images_root)
    return scene_of_gaussians(gaussians), gaussians.scene.backbone


def scene_of_gaussians(gaussians: FeatureGaussians) -> LiftScene:
    """An export as a scene to lift into."""
    scene, root = gaussians.scene, Path(gaussians.scene.images_root)
    return LiftScene(scene.scene, gaussians.splats, scene.views, root, scene.units, scene.transform, scene.scale)


def config_of(info: BackboneInfo) -> BackboneConfig:
    """The backbone that an export names, with the default for the size of images."""
    return BackboneConfig(name=info.name, weights=info.weights, layer=info.layer, input_rule=rule_of(info.input_rule))


def lift_scene(
    scene: LiftScene,
    config: BackboneConfig,
    feature_dim: int | None = 64,
    options: LiftOptions = DEFAULT_OPTIONS,
    device: torch.device | str = "cpu",
    cache_dir: Path | None = None,
    view_dependence: ViewDependence = "position",
) -> tuple[FeatureGaussians, dict[str, Any]]:
    """Lift the backbone's features of the training views into the scene's Gaussians.

    Args:
        scene: Gaussians and views.
        config: the backbone.
        feature_dim: channels per Gaussian (principal components), or None for all of the backbone's.
        options: of the solver.
        device: where the backbone runs and the features are solved.
        cache_dir: of feature maps, see `extract_feature_maps`.

    Returns:
        The scene with features, on the CPU, and a report for `REPORT_FILE`.

    Raises:
        InputError: no training views, or Gaussians that hardly any of them sees.
    """
    require_training_views(scene)
    parts = {split: posed_maps(scene, split, config, device, cache_dir) for split in SPLITS}
    train, held_out = parts["train"], parts["eval"]
    splats = scene.splats.to(device)
    psnr = _color_psnr(splats, train)
    if psnr < LEAST_PSNR:
        logger.warning(
            "The Gaussians of %s render to %.1f dB of its photos: they may not be in the cameras' frame, and features "
            "are worth nothing then. Give the capture that they were trained on (for a .ply that nerfstudio exported "
            "also --dataparser-transforms).",
            scene.name,
            psnr,
        )
    start = time.monotonic()
    lifted = lift_feature_maps(splats, train.cameras, train.maps, feature_dim, options, view_dependence)
    space = lifted.space.to("cpu")
    logger.info(
        "Features: %d channels of %d, which hold %.1f %% of the variance.",
        len(space.scales),
        len(space.mean),
        100 * space.explained,
    )
    seconds = time.monotonic() - start
    seen = float(lifted.seen.float().mean())
    if seen < FEWEST_SEEN:
        raise InputError(
            f"the views of {scene.name} see {100 * seen:.1f} % of its Gaussians: Gaussians and cameras are not in the "
            "same frame; give the capture that the Gaussians were trained on (for a .ply that nerfstudio exported also "
            "--dataparser-transforms)."
        )
    report = {
        "views": len(train.views),
        "feature_dim": len(space.scales),
        "explained_variance": space.explained,
        "gaussians": len(splats),
        "psnr": psnr,
        "unseen_gaussians": int((~lifted.seen).sum()),
        "iterations": lifted.iterations,
        "cosine": lifted.cosine,
        "seconds": round(seconds, 3),
        "options": dataclasses.asdict(options),
        "view_dependence": view_dependence,
    }
    if held_out.views:
        report["held_out_cosine"] = held_out_cosine(splats, lifted, held_out.cameras, held_out.maps)
        logger.info("Held-out views: cosine %.3f.", report["held_out_cosine"])
    pairs = [pair for part in parts.values() for pair in zip(part.views, part.cameras, strict=True)]
    grids = {view.path: camera.grid for view, camera in pairs}
    identity = backbone_fingerprint(config)
    info = SceneInfo(
        scene=scene.name,
        backbone=BackboneInfo(**{name: identity[name] for name in BackboneInfo.__dataclass_fields__}),
        decoder="linear",
        decoder_resolution="patch",
        num_gaussians=len(splats),
        feature_dim=len(space.scales),
        channels=len(space.mean),
        units=scene.units,
        transform=scene.transform,
        scale=scene.scale,
        rasterize_mode=splats.rasterize_mode,
        images_root=str(scene.images_root),
        views=tuple(dataclasses.replace(view, grid=grids[view.path]) for view in scene.views),
        feature_view_dependence=view_dependence,
    )
    tensors = {name: getattr(scene.splats, name) for name in TENSORS}
    position = None if lifted.position is None else lifted.position.cpu()
    features = lifted.features.cpu()
    return FeatureGaussians(**tensors, features=features, decoder=space.decoder, scene=info, position=position), report


def report_bytes(report: dict[str, Any]) -> bytes:
    """The content of `REPORT_FILE`."""
    return (json.dumps(report, indent=1) + "\n").encode()


@torch.no_grad()
def _color_psnr(splats: Splats, posed: PosedMaps) -> float:
    """PSNR (dB) of a few rendered views, their errors pooled."""
    errors = []
    for index in range(0, len(posed.views), -(-len(posed.views) // _COMPARED_VIEWS)):
        view = posed.cameras[index]
        image, _ = render_rgb(splats, view)
        photo = cv2.resize(posed.photos[index], (view.width, view.height), interpolation=cv2.INTER_AREA)
        errors.append((image.cpu() - torch.from_numpy(photo) / 255).square().mean())
    return float(-10 * torch.log10(torch.stack(errors).mean().clamp_min(1e-10)))


class _Photos(Sequence[np.ndarray]):
    """The undistorted photos of views, uint8 RGB, read when asked for."""

    def __init__(self, views: Sequence[ViewInfo], root: Path) -> None:
        self.views, self.root = views, root

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        view = self.views[index]
        return load_undistorted_photo(view, resolve(view.path, self.root))


def _camera(view: ViewInfo, grid: tuple[int, int], root: Path, identity: dict[str, Any]) -> PinholeView:
    """The view at the size that the backbone sees it: every patch is then a square of whole pixels."""
    pinhole = view.pinhole()
    rule = rule_of(identity["input_rule"])
    height, width = input_size(pinhole.height, pinhole.width, identity["patch_size"], identity["max_size"], rule)
    mask, pixels = None, _load_mask(view, root)
    if pixels is not None:
        pixels = undistort_mask(pixels, view.K, view.distortion, view.camera_model)
        share, _ = pool_to_patch_grid(torch.from_numpy(pixels).float()[..., None], (height, width))
        mask = share[..., 0]
    seen = pinhole.resized(width, height)
    return PinholeView(seen.world_to_camera.float(), seen.K.float(), width, height, grid, mask)


def _load_mask(view: ViewInfo, root: Path) -> np.ndarray | None:
    if view.mask_path is None:
        return None
    return load_mask(resolve(view.mask_path, root), (view.width, view.height))
