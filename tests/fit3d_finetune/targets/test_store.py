"""Targets are the decoded, pooled rendering of each view, whether they come from disk or are made anew."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fit3d_finetune.targets.export_files import LocalExport
from fit3d_finetune.targets.files import Target, TargetFolder
from fit3d_finetune.targets.scenes import Scene, with_novel_views
from fit3d_finetune.targets.store import StoreKind, TargetStore
from fit3d_finetune.targets.views import load_pinhole_image, resize_image
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import load_backbone
from fit3d_ns.features.decoder import DecoderKind
from fit3d_ns.scene.description import DecoderResolution
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.render import render_features, render_rgb
from tests.fit3d_finetune.scenes import (
    BACKBONE,
    GRID,
    HEIGHT,
    PATCH,
    WIDTH,
    make_gaussians,
    scene_of,
    store_of,
    write_export,
)

LEFT_HALF = np.arange(WIDTH)[None, :].repeat(HEIGHT, 0) < WIDTH // 2


def pooled(pixels: Tensor, mask: Tensor) -> Tensor:
    """Mean [h, w, C] of the unmasked pixels of each cell, by two loops."""
    h, w = GRID
    cells = pixels.new_zeros(h, w, pixels.shape[-1])
    for i in range(h):
        for j in range(w):
            window = slice(i * PATCH, (i + 1) * PATCH), slice(j * PATCH, (j + 1) * PATCH)
            inside = pixels[window][mask[window]]
            cells[i, j] = inside.mean(0) if len(inside) else 0
    return cells


def decoded(gaussians: FeatureGaussians, features: Tensor) -> Tensor:
    weight = gaussians.decoder["weight"].double()
    if gaussians.scene.decoder == "linear":
        return features @ weight.T + gaussians.decoder["bias"].double()
    return F.conv2d(features.permute(2, 0, 1)[None], weight, padding=1)[0].permute(1, 2, 0)


def naive_target(gaussians: FeatureGaussians, view: int, mask: Tensor) -> Tensor:
    """decode and pool in float64, in the order in which the decoder was trained."""
    features, _ = render_features(gaussians, gaussians.scene.views[view].pinhole())
    if gaussians.scene.decoder_resolution == "pixel":
        return pooled(decoded(gaussians, features.double()), mask)
    return decoded(gaussians, pooled(features.double(), mask))


@pytest.mark.parametrize(
    ("decoder", "resolution"), [("linear", "patch"), ("linear", "pixel"), ("conv3x3", "patch"), ("conv3x3", "pixel")]
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_target_is_the_decoded_rendering_on_the_patch_grid(
    tmp_path: Path, decoder: DecoderKind, resolution: DecoderResolution, masked: bool
) -> None:
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.8 if masked else None
    store = store_of(tmp_path, scene_of(tmp_path, decoder=decoder, resolution=resolution, mask=mask))
    target = store.get(0, 2)
    gaussians = store.scenes[0].load()
    counted = torch.ones(HEIGHT, WIDTH, dtype=torch.bool) if mask is None else torch.from_numpy(mask)
    expected = naive_target(gaussians, 2, counted)
    assert expected.std() > 0.1
    torch.testing.assert_close(target.features.double(), expected, atol=5e-3, rtol=2e-3)  # kept as fp16
    torch.testing.assert_close(
        target.weights.double(), pooled(counted[..., None].double(), counted | True)[..., 0], atol=1e-3, rtol=0
    )


def test_patches_that_the_gaussians_leave_uncovered_do_not_count(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, across=(0.0, 4.0))
    store = store_of(tmp_path, scene)
    for view, info in enumerate(scene.views):
        _, alpha = render_features(scene.load(), info.pinhole())
        cover = pooled(alpha, torch.ones(HEIGHT, WIDTH, dtype=torch.bool))[..., 0]
        assert store.get(0, view).weights.tolist() == (cover >= 0.5).float().tolist()
    weights = store.get(0, 1).weights
    assert 0 < weights.sum() < weights.numel()


def test_masked_pixels_do_not_count(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, mask=LEFT_HALF)
    gaussians, mask = scene.load(), torch.from_numpy(LEFT_HALF)
    target = store_of(tmp_path, scene).get(0, 1)
    assert target.weights.tolist() == [[1.0, 1.0, 0.0, 0.0]] * 3
    torch.testing.assert_close(
        target.features[:, :2].double(), naive_target(gaussians, 1, mask)[:, :2], atol=5e-3, rtol=2e-3
    )


def same(one: Target, other: Target) -> bool:
    return torch.equal(one.features, other.features) and torch.equal(one.weights, other.weights)


@pytest.mark.parametrize("decoder", ["linear", "conv3x3"])
def test_targets_from_disk_equal_those_made_anew(tmp_path: Path, decoder: DecoderKind) -> None:
    scene = scene_of(tmp_path, decoder=decoder, mask=LEFT_HALF)
    kept, anew = store_of(tmp_path, scene), store_of(tmp_path / "other", scene, limit_bytes=0)
    assert len(list((tmp_path / "targets").iterdir())) == 1
    assert not (tmp_path / "other" / "targets").exists()
    assert all(same(kept.get(0, view), anew.get(0, view)) for view in range(5))


def test_a_view_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(tmp_path)
    first = store_of(tmp_path, scene).get(0, 3)
    monkeypatch.setattr(TargetStore, "_make", lambda *_: pytest.fail("made again"))
    assert same(store_of(tmp_path, scene).get(0, 3), first)


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_damaged_file_is_made_again(tmp_path: Path, kept: int) -> None:
    scene = scene_of(tmp_path)
    good = store_of(tmp_path, scene).get(0, 1)
    [path] = (tmp_path / "targets").iterdir()
    path.write_bytes(path.read_bytes()[:kept])
    assert same(store_of(tmp_path, scene).get(0, 1), good)


def test_a_changed_mask_gives_other_targets(tmp_path: Path) -> None:
    masked = scene_of(tmp_path, mask=LEFT_HALF)
    assert store_of(tmp_path, masked).get(0, 1).weights[0, 3] == 0
    write_export(tmp_path / "runs" / "plane", mask=~LEFT_HALF)  # the same export, other mask files
    assert store_of(tmp_path, masked).get(0, 1).weights[0, 3] == 1


def test_files_of_earlier_runs_make_room_and_those_of_this_run_stay(tmp_path: Path) -> None:
    scenes = [scene_of(tmp_path / str(seed), seed=seed) for seed in range(3)]
    old = store_of(tmp_path, scenes[0])
    [file] = (tmp_path / "targets").iterdir()
    room = int(2.9 * file.stat().st_size)
    expected = old.get(0, 1)
    new = store_of(tmp_path, *scenes[1:], limit_bytes=room)
    assert not file.exists()
    assert len(list((tmp_path / "targets").iterdir())) == 2
    assert sum(path.stat().st_size for path in (tmp_path / "targets").iterdir()) <= room
    assert same(old.get(0, 1), expected), "a store whose file was removed makes its targets again"
    assert same(new.get(1, 1), store_of(tmp_path / "other", scenes[2]).get(0, 1))


def test_the_stores_of_a_run_share_the_room(tmp_path: Path) -> None:
    scenes = [scene_of(tmp_path / str(seed), seed=seed) for seed in range(2)]
    size = _files(tmp_path, scenes[0])[0].stat().st_size
    folder = TargetFolder(tmp_path / "targets", int(1.5 * size))
    stores = [TargetStore([scene], folder, "cpu", "gaussians", BACKBONE) for scene in scenes]
    for store in stores:
        store.prepare()
    assert folder.used <= folder.limit_bytes
    assert len(list(folder.path.iterdir())) == 1
    assert same(stores[1].get(0, 0), store_of(tmp_path / "other", scenes[1]).get(0, 0))


def _files(folder: Path, scene: Scene) -> list[Path]:
    store_of(folder / "first", scene)
    return list((folder / "first" / "targets").iterdir())


def test_several_threads_may_ask_for_targets_that_are_made_anew(tmp_path: Path) -> None:
    scenes = [scene_of(tmp_path / str(seed), seed=seed) for seed in range(2)]
    kept, anew = store_of(tmp_path, *scenes), store_of(tmp_path / "other", *scenes, limit_bytes=0)
    wrong: list[str] = []

    def ask(scene: int) -> None:
        for view in range(5):
            try:
                if not same(anew.get(scene, view), kept.get(scene, view)):
                    wrong.append(f"view {view} of scene {scene} differs")
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=ask, args=(scene,)) for scene in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_mirror_control_is_the_original_of_the_mirrored_image(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, mask=LEFT_HALF)
    target = store_of(tmp_path, scene, kind="mirror").get(0, 1)
    image = load_pinhole_image(scene.views[1], scene.files.image(scene.views[1]), (HEIGHT, WIDTH))
    with torch.no_grad():
        maps = load_backbone(BACKBONE)(torch.flip(image, [2])[None])[0]
        straight = load_backbone(BACKBONE)(image[None])[0]
    expected = torch.flip(maps, [2]).permute(1, 2, 0)
    torch.testing.assert_close(target.features, expected, atol=2e-3, rtol=2e-3)
    assert (expected - straight.permute(1, 2, 0)).abs().mean() > 0.01, "mirroring makes a difference"
    assert target.weights.tolist() == [[1.0, 1.0, 0.0, 0.0]] * 3


def test_the_original_features_are_those_of_the_image(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    image = load_pinhole_image(scene.views[2], scene.files.image(scene.views[2]), (HEIGHT, WIDTH))
    with torch.no_grad():
        expected = load_backbone(BACKBONE)(image[None])[0].permute(1, 2, 0)
    target = store_of(tmp_path, scene, kind="original").get(0, 2)
    torch.testing.assert_close(target.features, expected, atol=2e-3, rtol=2e-3)


def enlarged_features(image: Tensor) -> Tensor:
    """The original's features [h, w, C] of an image [3, 2 * HEIGHT, 2 * WIDTH], brought to the grid."""
    with torch.no_grad():
        maps = load_backbone(BACKBONE)(image[None])
    assert maps.shape[-2:] == (2 * GRID[0], 2 * GRID[1])
    return F.interpolate(maps, GRID, mode="bicubic", align_corners=False)[0].permute(1, 2, 0)


class WithoutTerm(LocalExport):
    """An export that does not know of its position term."""

    def position(self) -> None:
        return None


def test_of_the_mirror_control_the_position_term_of_the_mirrored_image_is_taken_away(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, view_dependence="position")
    assert isinstance(scene.files, LocalExport)
    plain = dataclasses.replace(
        scene, files=WithoutTerm(scene.files.directory, scene.files.images_root), gaussians_sha256="another"
    )
    left, whole = (store_of(tmp_path, each, kind="mirror").get(0, 1).features for each in (scene, plain))
    position = scene.position_map(1)
    assert position is not None
    torch.testing.assert_close(left, whole - position.flip(1), rtol=0, atol=0.02)  # both are kept as fp16


def test_the_features_for_gram_matrices_are_those_of_the_image_at_twice_the_size(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, mask=LEFT_HALF)
    expected = enlarged_features(
        load_pinhole_image(scene.views[2], scene.files.image(scene.views[2]), (2 * HEIGHT, 2 * WIDTH))
    )
    target = store_of(tmp_path, scene, kind="gram").get(0, 2)
    torch.testing.assert_close(target.features, expected, atol=2e-3, rtol=2e-3)
    assert target.weights.tolist() == [[1.0, 1.0, 0.0, 0.0]] * 3
    small = store_of(tmp_path, scene, kind="original").get(0, 2).features
    assert (target.features - small).abs().mean() > 0.01, "the size makes a difference"


def test_the_features_for_gram_matrices_of_a_mirrored_photograph_are_mirrored(tmp_path: Path) -> None:
    """As far as the network is: one that treats a patch alone, without a place, is so exactly."""
    scene = scene_of(tmp_path)
    store = TargetStore([scene], TargetFolder(tmp_path / "targets", 0), "cpu", "gram", BACKBONE)
    network = load_backbone(BACKBONE)
    weights = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))

    def colours(images: Tensor) -> Tensor:
        return F.avg_pool2d(F.conv2d(images, weights[..., None, None]), PATCH)

    network.forward = colours  # type: ignore[method-assign]
    store._network = network
    found = store.get(0, 1).features
    image = scene.files.image(scene.views[1])
    Image.open(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image)
    torch.testing.assert_close(store.get(0, 1).features, found.flip(1), atol=5e-3, rtol=5e-3)
    assert (found - found.flip(1)).abs().mean() > 0.05


def test_novel_views_have_features_for_gram_matrices_too(tmp_path: Path) -> None:
    scene = with_novel_views(scene_of(tmp_path), 1)
    kept, anew = store_of(tmp_path, scene, kind="gram"), store_of(tmp_path / "o", scene, kind="gram", limit_bytes=0)
    novel = len(scene.views)
    assert same(kept.get(0, novel), anew.get(0, novel))
    rgb, _ = render_rgb(scene.load(), scene.pinhole(novel))
    image = resize_image(rgb.permute(2, 0, 1)[None].cpu(), (2 * HEIGHT, 2 * WIDTH))[0]
    torch.testing.assert_close(kept.get(0, novel).features, enlarged_features(image), atol=0.05, rtol=0.05)


def test_every_kind_has_files_of_its_own(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    kinds: tuple[StoreKind, ...] = ("gaussians", "mirror", "original", "geometry", "class-token", "gram")
    for count, kind in enumerate(kinds, 1):
        made = store_of(tmp_path, scene, kind=kind)
        assert len(list((tmp_path / "targets").iterdir())) == count
        [path] = made._kept.values()
        assert made.size_of(scene) >= path.stat().st_size, "room is claimed before it is known"


@pytest.mark.parametrize("limit_bytes", [0, 1 << 30])
def test_a_scene_that_gives_no_target_is_named(tmp_path: Path, limit_bytes: int) -> None:
    scene = scene_of(tmp_path, opacity=0.005)
    with pytest.raises(InputError, match=r"runs/plane gives no target: in no view .*; train the scene again"):
        store_of(tmp_path, scene, limit_bytes=limit_bytes)


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, mask=LEFT_HALF)
    make_gaussians(tmp_path / "captures" / "plane", mask=LEFT_HALF[:, :-5])
    with pytest.raises(InputError, match=r"0\.png has 59 x 48 pixels, but its image has 64 x 48: save it"):
        store_of(tmp_path, scene)
