"""What is saved is what is loaded."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from fit3d_ns.capture.lens import undistort
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.decoder import DecoderKind, FeatureDecoder
from fit3d_ns.scene.description import relative_to_root, resolve
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_ns.scene.scenes import make_gaussians, tensors_of


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 40),
    sh_coefficients=st.sampled_from([1, 4, 9, 16]),
    feature_dim=st.integers(1, 70),
    decoder=st.sampled_from(["linear", "conv3x3"]),
    seed=st.integers(0, 1000),
)
def test_a_saved_scene_loads_equal(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    sh_coefficients: int,
    feature_dim: int,
    decoder: DecoderKind,
    seed: int,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "round_trip"
    saved = make_gaussians(folder / "capture", count, sh_coefficients, feature_dim, decoder, seed)
    saved.save(folder / "runs/room", overwrite=True)
    loaded = FeatureGaussians.load(folder / "runs/room")
    assert loaded.scene.to_json() == saved.scene.to_json()
    for name, tensor in tensors_of(saved).items():
        got = tensors_of(loaded)[name]
        assert got.dtype == torch.float32
        if name == "features":
            tensor = tensor.half().float()
        tolerance = 1e-6 if name == "quats" else 0.0
        assert (got - tensor).abs().max() <= tolerance, name
    loaded.save(folder / "runs/again", overwrite=True)
    again = FeatureGaussians.load(folder / "runs/again")
    assert all((tensors_of(again)[name] - tensor).abs().max() <= 1e-6 for name, tensor in tensors_of(loaded).items())


def test_the_folder_holds_what_the_format_says(tmp_path: Path) -> None:
    make_gaussians(tmp_path).save(tmp_path / "runs/room", extra_files={"features_pca.png": b"picture"})
    assert sorted(os.listdir(tmp_path / "runs/room")) == [
        "features_pca.png",
        "gaussians.safetensors",
        "scene.json",
        "splat.ply",
    ]
    assert os.listdir(tmp_path / "runs") == ["room"]
    assert (tmp_path / "runs/room/features_pca.png").read_bytes() == b"picture"
    with safe_open(tmp_path / "runs/room/gaussians.safetensors", framework="pt") as file:
        assert file.get_tensor("features").dtype == torch.float16
        assert file.get_tensor("decoder.weight").shape == (12, 8)
        assert file.metadata()["format_version"] == "1"


def test_extra_files_cannot_replace_the_formats_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not replace"):
        make_gaussians(tmp_path).save(tmp_path / "room", extra_files={"scene.json": b""})


def test_quaternions_are_normalised_on_saving(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path)
    scaled = dataclasses.replace(gaussians, quats=gaussians.quats * torch.linspace(0.01, 30, 50)[:, None])
    scaled.save(tmp_path / "room")
    loaded = FeatureGaussians.load(tmp_path / "room")
    torch.testing.assert_close(loaded.quats, gaussians.quats)


def test_the_decoder_loads_into_the_decoder_module(tmp_path: Path) -> None:
    for kind in get_args(DecoderKind):
        make_gaussians(tmp_path, decoder=kind).save(tmp_path / "room", overwrite=True)
        loaded = FeatureGaussians.load(tmp_path / "room")
        module = FeatureDecoder(loaded.scene.decoder, loaded.scene.feature_dim, loaded.scene.channels)
        module.load_state_dict(loaded.decoder)


def test_moved_images_are_found_through_images_root(tmp_path: Path) -> None:
    make_gaussians(tmp_path / "capture").save(tmp_path / "room")
    (tmp_path / "capture").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--images-root"):
        FeatureGaussians.load(tmp_path / "room")
    FeatureGaussians.load(tmp_path / "room", check_images=False)
    loaded = FeatureGaussians.load(tmp_path / "room", images_root=tmp_path / "elsewhere")
    assert resolve(loaded.scene.views[0].path, Path(loaded.scene.images_root)).is_file()


def test_paths_are_relative_to_the_root_where_they_can_be(tmp_path: Path) -> None:
    assert relative_to_root(tmp_path / "a/b.png", tmp_path) == "a/b.png"
    assert relative_to_root(Path("/other/b.png"), tmp_path) == "/other/b.png"
    assert resolve("/other/b.png", tmp_path) == Path("/other/b.png")


def test_the_way_back_to_the_capture_inverts_nerfstudios_transform(tmp_path: Path) -> None:
    scene = make_gaussians(tmp_path).scene
    capture = np.random.default_rng(0).normal(size=(10, 3))
    inside = scene.scale * (capture @ scene.transform[:, :3].T + scene.transform[:, 3])
    np.testing.assert_allclose(scene.to_capture(inside), capture, atol=1e-12)


def test_the_pinhole_camera_of_a_view_is_that_of_its_undistorted_image(tmp_path: Path) -> None:
    view = make_gaussians(tmp_path).scene.views[0]
    image, K = undistort(np.zeros((24, 32, 3), np.uint8), view.K, view.distortion, view.camera_model)
    pinhole = view.pinhole()
    assert (pinhole.K.numpy() == K).all()
    assert image.shape[:2] == (pinhole.height, pinhole.width)
    assert pinhole.grid == view.grid
    assert (pinhole.world_to_camera.numpy() == view.world_to_camera).all()


def test_to_moves_every_tensor(tmp_path: Path) -> None:
    moved = make_gaussians(tmp_path).to("meta")
    assert all(tensor.device.type == "meta" for tensor in tensors_of(moved).values())


def test_a_million_gaussians_save_and_load_in_seconds(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path, count=1_000_000, feature_dim=16)
    start = time.perf_counter()
    gaussians.save(tmp_path / "room")
    saved = time.perf_counter()
    FeatureGaussians.load(tmp_path / "room")
    loaded = time.perf_counter()
    print(f"1M Gaussians: saved in {saved - start:.1f} s, loaded in {loaded - saved:.1f} s")
    shutil.rmtree(tmp_path / "room")  # pytest would keep half a gigabyte
    # A Python loop over Gaussians would take minutes; the bound leaves room for a busy machine.
    assert loaded - start < 40
