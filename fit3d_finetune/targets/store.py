"""Fine-tuning targets: the scene's features re-rendered for every view, on the backbone's patch grid.

Blending, pooling to the patch grid and a linear decoder commute, so a target is kept as it is cheapest: pooled, and
undecoded (D channels) where the decoder is linear. Targets of a scene are made once, by loading that scene alone,
and read back from disk by view; what does not fit the bound on disk space is made again whenever it is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.targets.choices import TargetKind as TargetKind
from fit3d_finetune.targets.files import (
    StoredTarget,
    Target,
    TargetFolder,
    as_stored,
    is_whole,
    read_target,
    write_targets,
)
from fit3d_finetune.targets.geometry import (
    CHANNELS,
    GEOMETRY_VERSION,
    SceneDepth,
    geometry_target,
    render_scene_depth,
)
from fit3d_finetune.targets.rendering import rendered_target
from fit3d_finetune.targets.rule import TargetRule
from fit3d_finetune.targets.scenes import Scene
from fit3d_finetune.targets.views import load_pinhole_image, load_pinhole_mask, resize_image
from fit3d_ns.common.console import logger, progress
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.randomness import preserved_random_state
from fit3d_ns.features.backbone import Backbone, BackboneConfig, load_backbone
from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.patch_grid import COUNTED_SHARE
from fit3d_ns.scene.description import file_sha256
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.render import render_rgb

FORMAT_VERSION = 2
StoreKind = Literal["gaussians", "mirror", "original", "geometry", "class-token", "gram"]
AREA = TargetRule()
GRAM_SCALE = 2
"""Of the image from which the original's features for the Gram matrix come, against the one that is trained on."""


class TargetStore:
    """Targets of all views of some scenes, made scene by scene by `prepare`; may be read from several threads.

    Args:
        scenes: in the order that indices refer to.
        folder: where they are kept; scenes that do not fit are not kept but rendered for every use.
        device: where targets are rendered.
        kind: "gaussians" renders the scenes. "mirror" is the control without 3D: the features that the original
            `backbone` gives for the mirrored image, mirrored back. Both leave out the position term where the scene
            knows it (`Scene.position_map`). "original": its features of the image itself.
            "geometry" renders depth and normals (`fit3d_finetune.targets.geometry`) in the place of features.
            "class-token": the one of the original `backbone` for the image, as a map of one patch.
            "gram": its features of the image at twice the size, brought to the view's patch grid.
        backbone: of the exports; used by "mirror", "original", "class-token" and "gram" only.
        rule: on which patches targets lie, how they come there and which count.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        folder: TargetFolder,
        device: torch.device | str,
        kind: StoreKind,
        backbone: BackboneConfig,
        rule: TargetRule = AREA,
    ) -> None:
        self.scenes = [rule.on_grid(scene) for scene in scenes]
        self.rule = rule
        self.folder = folder
        self.device = device
        self.kind = kind
        self.backbone = backbone
        self.seconds = 0.0
        """Spent on making, reading and decoding targets."""
        self._kept: dict[int, Path] = {}
        self._making = threading.RLock()
        self._loaded: tuple[int, FeatureGaussians, FeatureDecoder] | None = None
        self._network: Backbone | None = None
        self._depth: tuple[int, SceneDepth] | None = None

    def prepare(self) -> None:
        """Make what is missing, as far as it may be kept, with a progress bar.

        Raises:
            InputError: a scene in which no patch of any view counts, or whose features are not finite.
        """
        start = time.perf_counter()
        with progress("scenes") as bar:
            task = bar.add_task("Targets", total=len(self.scenes))
            for index, scene in enumerate(self.scenes):
                path = self.folder.path / f"{self._key(scene)}.safetensors"
                whole = is_whole(path, scene.num_views)
                if self.folder.claim(path, path.stat().st_size if whole else self.size_of(scene)):
                    if not whole:
                        write_targets(path, [self._make(index, view) for view in range(scene.num_views)])
                    self._kept[index] = path
                self._require_counted(index)
                bar.advance(task)
        self._loaded = self._network = self._depth = None
        self.seconds += time.perf_counter() - start
        if len(self._kept) < len(self.scenes):
            logger.warning(
                "The targets of %d of %d scenes do not fit into %.1f GB and are made anew for every use; "
                "--target-cache-gb gives more room.",
                len(self.scenes) - len(self._kept),
                len(self.scenes),
                self.folder.limit_bytes / 1e9,
            )
        logger.info("Targets: %d scenes, %.0f MB in %s", len(self._kept), self.folder.used / 1e6, self.folder.path)

    def get(self, scene: int, view: int) -> Target:
        """The decoded target of a view, on the CPU."""
        start = time.perf_counter()
        stored = self._read(scene, view) or self._make(scene, view)
        target = stored.decoded()
        self.seconds += time.perf_counter() - start
        return target

    def image(self, scene: int, view: int) -> Tensor:
        """The input image [3, H, W] in 0..1 of a view, H and W patches; rendered for a novel view."""
        if self.scenes[scene].photograph(view) is not None:
            return self._image_of_size(scene, view, 1)
        stored = self._read(scene, view)
        if stored is None:
            return self._image_of_size(scene, view, 1)
        assert stored.image is not None, "novel views are kept with their images"
        return stored.image.float() / 255

    def _image_of_size(self, scene: int, view: int, scale: int) -> Tensor:
        """The input image as above, with sides of so many times the size."""
        h, w = self.scenes[scene].image_size(view)
        size, photograph = (scale * h, scale * w), self.scenes[scene].photograph(view)
        if photograph is not None:
            return load_pinhole_image(
                photograph, self.scenes[scene].files.image(photograph), size, self.rule.resampling
            )
        return self._rendered_image(scene, view, size).float() / 255

    def _read(self, scene: int, view: int) -> StoredTarget | None:
        if scene not in self._kept:
            return None
        try:
            return read_target(self._kept[scene], view)
        except FileNotFoundError:  # another run needed the room
            return None

    def _require_counted(self, scene: int) -> None:
        if any(bool(self.get(scene, view).weights.any()) for view in range(self.scenes[scene].num_views)):
            return
        if self.kind == "geometry":
            logger.warning("%s teaches no shape: no patch of any view has depth", self.scenes[scene].files)
        else:
            raise InputError(
                f"{self.scenes[scene].files} gives no target: in no view do its Gaussians (and masks) cover half "
                "of any patch; train the scene again, or check its masks."
            )

    # ---- making

    def _make(self, scene: int, view: int) -> StoredTarget:
        with self._making:
            if self.kind == "geometry":
                return self._shape(scene, view)
            if self.kind != "gaussians":
                return self._encoded(scene, view)
            gaussians, decoder = self._load(scene)
            pinhole = self.scenes[scene].pinhole(view)
            target = rendered_target(gaussians, decoder, pinhole, self._mask(scene, view), self.rule)
            linear = None if decoder.bias is None else (decoder.weight, decoder.bias)
            stored = as_stored(target.features, target.weights, linear)
            if not bool(stored.decoded().features.isfinite().all()):
                raise InputError(
                    f"{self.scenes[scene].files} gives a target that is not finite (view {view}): its "
                    "features or its decoder are too large; train or lift the scene again."
                )
            return self._with_image(scene, view, stored)

    def _shape(self, scene: int, view: int) -> StoredTarget:
        """Depth and normals of the view."""
        if self._depth is None or self._depth[0] != scene:
            gaussians, _ = self._load(scene)
            pinholes = [self.scenes[scene].pinhole(i) for i in range(self.scenes[scene].num_views)]
            self._depth = (scene, render_scene_depth(gaussians, pinholes))
        return as_stored(*geometry_target(self._depth[1], view, self._mask(scene, view), self.rule), None)

    @torch.no_grad()
    def _encoded(self, scene: int, view: int) -> StoredTarget:
        """The original's class token, or its features of the image, of the mirrored or of an enlarged one."""
        if self._network is None:
            self._network = load_backbone(self.backbone, self.device)
        scale = GRAM_SCALE if self.kind == "gram" else 1
        image = self._image_of_size(scene, view, scale)[None].to(self.device)
        if self.kind == "class-token":
            _, token = self._network.forward_with_class_token(image)
            return as_stored(token[None], torch.ones(1, 1), None)
        maps = self._mirrored(image, scene, view) if self.kind == "mirror" else self._network(image)
        grid, mask = self.scenes[scene].grid(view), self._mask(scene, view)
        if self.kind == "gram":  # as DINOv3 does it
            maps = F.interpolate(maps, grid, mode="bicubic", align_corners=False)
        weights = torch.ones(grid)
        if mask is not None:
            share, _ = self.rule.resample(mask[..., None].float(), grid)
            weights = self.rule.weights(share[..., 0])
        return self._with_image(scene, view, as_stored(maps[0].permute(1, 2, 0), weights, None))

    def _mirrored(self, image: Tensor, scene: int, view: int) -> Tensor:
        """Features of the mirrored image, mirrored back, less the position term: that of a mirrored image is not."""
        assert self._network is not None
        maps, position = self._network(image.flip(-1)), self.scenes[scene].position_map(view)
        if position is not None:
            maps = maps - position.to(maps).permute(2, 0, 1)
        return maps.flip(-1)

    def _mask(self, scene: int, view: int) -> Tensor | None:
        photograph = self.scenes[scene].photograph(view)
        return None if photograph is None else load_pinhole_mask(photograph, self.scenes[scene].files.mask(photograph))

    def _with_image(self, scene: int, view: int, target: StoredTarget) -> StoredTarget:
        if self.scenes[scene].photograph(view) is not None:
            return target
        return dataclasses.replace(target, image=self._rendered_image(scene, view, self.scenes[scene].image_size(view)))

    @torch.no_grad()
    def _rendered_image(self, scene: int, view: int, size: tuple[int, int]) -> Tensor:
        """uint8 [3, *size], as a photograph would be."""
        with self._making:
            gaussians, _ = self._load(scene)
            rgb, _ = render_rgb(gaussians, self.scenes[scene].pinhole(view))
        image = resize_image(rgb.permute(2, 0, 1)[None].cpu(), size, self.rule.resampling)[0]
        return (image * 255).round().to(torch.uint8).contiguous()

    def _load(self, scene: int) -> tuple[FeatureGaussians, FeatureDecoder]:
        if self._loaded is None or self._loaded[0] != scene:
            self._loaded = None  # frees the last scene before the next is read
            gaussians = self.scenes[scene].load().to(self.device)
            info = gaussians.scene
            with preserved_random_state():  # its first weights are random, and not kept
                decoder = FeatureDecoder(info.decoder, info.feature_dim, info.channels).to(self.device)
            decoder.load_state_dict(gaussians.decoder)
            self._loaded = (scene, gaussians, decoder)
        return self._loaded[1:]

    # ---- keeping

    def _key(self, scene: Scene) -> str:
        """A hash of all that decides the targets of a scene."""
        masks = [mask for view in scene.views if (mask := scene.files.mask(view)) is not None]
        made_from: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "kind": self.kind,
            "gaussians": scene.gaussians_sha256,
            "masks": [file_sha256(mask) for mask in masks],
            "poses": [view.world_to_camera.tolist() for view in scene.novel_views],
            "rule": dataclasses.asdict(self.rule),
            "min_cover": COUNTED_SHARE,
        }
        if self.kind == "geometry":
            made_from["geometry"] = GEOMETRY_VERSION
        elif self.kind != "gaussians":
            made_from["precision"] = self.backbone.precision
        if self.kind == "gram":
            made_from["scale"] = GRAM_SCALE
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()

    def size_of(self, scene: Scene) -> int:
        """Bytes that the targets of a scene take, a little more than less."""
        undecoded = self.kind == "gaussians" and scene.decoder == "linear"
        channels = scene.feature_dim if undecoded else scene.backbone.embed_dim
        if self.kind == "geometry":
            channels = CHANNELS
        if self.kind == "class-token":
            return scene.num_views * (2 * channels + 1024)
        total = 4 * scene.backbone.embed_dim * (scene.feature_dim + 1)
        for view in range(scene.num_views):
            h, w = scene.grid(view)
            image = 3 * h * w * scene.backbone.patch_size**2 if scene.photograph(view) is None else 0
            total += 2 * h * w * (channels + 1) + image + 512
        return total
