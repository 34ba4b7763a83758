"""Images, cameras and, beside each image, the backbone's feature map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from fit3d_ns.capture.checks import check_posed_images, check_transforms
from fit3d_ns.capture.images import load_image, load_mask
from fit3d_ns.common.console import logger
from fit3d_ns.common.randomness import generator_state, set_generator_state
from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.features.cache import FeatureMap, FeatureMaps, extract_feature_maps
from fit3d_ns.features.pca import PCABasis, fit_pca
from fit3d_ns.features.resident import ResidentMaps
from fit3d_ns.method.captures import readable_capture

Split = Literal["train", "eval"]


@dataclass
class Fit3DDatamanagerConfig(FullImageDatamanagerConfig):
    """Full images plus the backbone's feature map of each."""

    _target: type = field(default_factory=lambda: Fit3DDatamanager)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The 2D backbone whose features are lifted."""
    max_image_size: int | None = None
    """Longest image side in pixels for training and evaluation; larger photos are shrunk when they are read.
    Exports still describe the files as they are. None: no limit."""
    feature_cache_dir: Path | None = None
    """Where feature maps are kept between runs; None means $FIT3D_CACHE_DIR, else ~/.cache/fit3d."""


class Fit3DDataset(InputDataset):
    """Images of any bit depth and number of channels, as 8-bit RGB or RGBA."""

    # Feature maps stay where the cache put them (a memory map) until the model wants them.
    exclude_batch_keys_from_device = [*InputDataset.exclude_batch_keys_from_device, "features"]  # noqa: RUF012

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        """The image [H, W, 3 or 4] as uint8.

        Raises:
            InputError: if the file cannot be decoded.
        """
        image = load_image(self._dataparser_outputs.image_filenames[image_idx], keep_alpha=True)
        if self.scale_factor != 1.0:
            import cv2

            size = int(image.shape[1] * self.scale_factor), int(image.shape[0] * self.scale_factor)
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return image

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        masks = self._dataparser_outputs.mask_filenames
        if masks is not None:
            load_mask(masks[image_idx])  # says what is wrong with a damaged mask, which nerfstudio's loader does not
        return super().get_data(image_idx, image_type)


class _OpaqueImages(Sequence[np.ndarray]):
    """The cached training images as the backbone gets them: uint8 [H, W, 3], alpha over white."""

    def __init__(self, cache: list[dict[str, Any]]) -> None:
        self._cache = cache

    def __len__(self) -> int:
        return len(self._cache)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        image = self._cache[index]["image"]
        values = image.float() if image.dtype == torch.uint8 else image * 255.0
        if values.shape[-1] == 4:
            alpha = values[..., 3:] / 255.0
            values = values[..., :3] * alpha + 255.0 * (1 - alpha)
        return values.round().clamp(0, 255).to("cpu", torch.uint8).numpy()


class Fit3DDatamanager(FullImageDatamanager[Fit3DDataset]):
    """`FullImageDatamanager` whose batches also hold `features`, the backbone's map as a `FeatureMap`.

    While training everything is loaded at once, so that bad input stops the run before it starts. Otherwise
    (viewing, rendering, exporting) images and features are only read when somebody asks for them.
    """

    config: Fit3DDatamanagerConfig
    train_dataset: Fit3DDataset
    eval_dataset: Fit3DDataset
    train_unseen_cameras: list[int]

    def __init__(
        self,
        config: Fit3DDatamanagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        if torch.device(device).type == "cpu" and config.cache_images == "cpu":
            # nerfstudio pins this cache's memory, which needs CUDA; "gpu" means the model's device: the CPU.
            config.cache_images = "gpu"
        if isinstance(config.dataparser, NerfstudioDataParserConfig):
            check_transforms(Path(config.data or config.dataparser.data))
        self._train_views: dict[int, Cameras] = {}
        with readable_capture(config.dataparser, config.data):
            super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)
        self.feature_basis: PCABasis | None = None
        if test_mode == "val":
            self._check_images()
            self._load_all()

    def create_train_dataset(self) -> Fit3DDataset:
        cameras = self.train_dataparser_outputs.cameras
        longest = int(max(cameras.width.max(), cameras.height.max()))
        limit = self.config.max_image_size
        if limit is not None and longest * self.config.camera_res_scale_factor > limit:
            # In 64ths, which floats hold exactly: nerfstudio rounds image and camera size in different types.
            self.config.camera_res_scale_factor = max(1, 64 * limit // longest) / 64
            logger.info(
                "Images are shrunk to %.0f %%: their longest side is %d pixels, and max_image_size is %d.",
                100 * self.config.camera_res_scale_factor,
                longest,
                limit,
            )
        dataset: Fit3DDataset = super().create_train_dataset()
        return dataset

    def _check_images(self) -> None:
        datasets: list[Fit3DDataset] = [self.train_dataset, self.eval_dataset]
        masks = [path for dataset in datasets for path in dataset._dataparser_outputs.mask_filenames or []]
        cameras = [dataset._dataparser_outputs.cameras for dataset in datasets]
        check_posed_images(
            [path for dataset in datasets for path in dataset.image_filenames],
            torch.cat([camera.width.flatten() for camera in cameras]).tolist(),
            torch.cat([camera.height.flatten() for camera in cameras]).tolist(),
            torch.cat([camera.camera_to_worlds for camera in cameras]).numpy(),
            masks or None,
        )

    def _load_all(self) -> None:
        maps = self.train_features
        _ = self.eval_features
        channels = maps.channels
        self.feature_basis = fit_pca(maps, min(channels, 512))
        logger.info(
            "Features: %d training and %d evaluation views, %d channels on a grid of %s patches.",
            len(maps),
            len(self.eval_features),
            channels,
            " / ".join(sorted({f"{w}x{h}" for h, w in maps.grid_sizes})),
        )

    @property
    def train_photos(self) -> Sequence[np.ndarray]:
        """The training images as the backbone gets them: uint8 [H, W, 3], undistorted."""
        return _OpaqueImages(self.cached_train)

    @cached_property
    def train_features(self) -> FeatureMaps:
        """Feature maps of the training images, in the dataset's order."""
        return self._extract("train")

    @cached_property
    def _near_train_features(self) -> Sequence[Tensor]:
        """The same where the model is, if that is a GPU."""
        device = torch.device(self.device)
        return self.train_features if device.type == "cpu" else ResidentMaps(self.train_features, device)

    @cached_property
    def eval_features(self) -> FeatureMaps:
        """Feature maps of the evaluation images, in the dataset's order."""
        return self._extract("eval")

    def train_features_of(self, backbone: BackboneConfig) -> FeatureMaps:
        """Feature maps of the training images by another backbone, in the dataset's order."""
        return self._extract("train", backbone)

    def _extract(self, split: Split, backbone: BackboneConfig | None = None) -> FeatureMaps:
        cache = self.cached_train if split == "train" else self.cached_eval
        dataset = self.train_dataset if split == "train" else self.eval_dataset
        return extract_feature_maps(
            _OpaqueImages(cache),
            backbone or self.config.backbone,
            cache_dir=self.config.feature_cache_dir,
            device=self.device,
            names=[path.name for path in dataset.image_filenames],
        )

    def _with_features(
        self, camera: Cameras, batch: dict[str, Any], maps: FeatureMaps
    ) -> tuple[Cameras, dict[str, Any]]:
        """A held-out view with what its features are compared with, and the camera to render them from."""
        return camera, {**batch, "features": FeatureMap(maps, batch["image_idx"]), "camera": camera}

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """The next view in the order of `sample_train_cameras`, as nerfstudio has it, without its copies."""
        index = self.train_unseen_cameras.pop(0)
        if not self.train_unseen_cameras:
            self.train_unseen_cameras = self.sample_train_cameras()
        if index not in self._train_views:
            # Slicing nerfstudio's cameras takes longer than what a small scene's loss does.
            camera = self.train_cameras[index : index + 1].to(self.device)
            camera.metadata = {**(camera.metadata or {}), "cam_idx": index}
            self._train_views[index] = camera
        batch = {**self.cached_train[index], "features": FeatureMap(self._near_train_features, index)}
        batch["image"] = batch["image"].to(self.device)
        return self._train_views[index], batch

    def train_order_state(self) -> dict[str, Any]:
        """Which views come next, and the generator that shuffles them, for an exact resume."""
        generator = getattr(self, "random_generator", None)  # nerfstudio has none where it samples by distance (fps)
        return {
            "unseen": list(self.train_unseen_cameras),
            "generator": None if generator is None else generator_state(generator),
        }

    def load_train_order(self, state: dict[str, Any]) -> None:
        """Go on with the views that `train_order_state` had next."""
        self.train_unseen_cameras = [int(index) for index in state["unseen"]]
        if state["generator"] is not None and hasattr(self, "random_generator"):
            set_generator_state(self.random_generator, state["generator"])

    def next_eval_image(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        camera, batch = super().next_eval_image(step)
        return self._with_features(camera, batch, self.eval_features)

    @property
    def fixed_indices_eval_dataloader(self) -> Any:
        """Pairs of camera and batch, one per evaluation image; feature maps are read as they are reached."""
        return _EvalViews(self, super().fixed_indices_eval_dataloader)


class _EvalViews:
    def __init__(self, datamanager: Fit3DDatamanager, views: list[tuple[Cameras, dict[str, Any]]]) -> None:
        self._datamanager, self._views = datamanager, views

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[tuple[Cameras, dict[str, Any]]]:
        for camera, batch in self._views:
            yield self._datamanager._with_features(camera, dict(batch), self._datamanager.eval_features)
