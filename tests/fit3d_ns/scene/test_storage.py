"""Features in 8 bits: how far they are from what was saved, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors import safe_open

from fit3d_finetune.targets.finding import find_scenes
from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.storage import LEVELS, dequantize, quantize
from tests.fit3d_finetune.scenes import make_gaussians as make_plane
from tests.fit3d_finetune.scenes import store_of
from tests.fit3d_ns.scene.scenes import make_gaussians, tensors_of
from tests.fit3d_ns.scene.test_bad_exports import read, refused, write

ROUNDING = 2.0**-22
"""Of float32 along the way, relative to the largest value, which is 127 steps."""

matrices = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 12)),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)


@settings(max_examples=300, deadline=None)
@given(matrices)
@example(np.zeros((3, 2), np.float32))
@example(np.full((4, 1), -7.25, np.float32))
@example(np.array([[3.4028235e38, 1e-45], [-3.4028235e38, 1.2e-38]], np.float32))
def test_no_value_is_off_by_more_than_half_a_step(values: np.ndarray) -> None:
    features = torch.from_numpy(values)
    levels, scales = quantize(features)
    assert levels.dtype == torch.int8
    assert int(levels.abs().max()) <= LEVELS, "-128 has no opposite"
    assert bool((scales > 0).all())
    loaded = dequantize(levels, scales)
    assert bool(loaded.isfinite().all())
    assert bool((loaded[features == 0] == 0).all())
    error, steps = (loaded.double() - features.double()).abs(), scales.double()
    assert bool((error <= steps * (0.5 + LEVELS * ROUNDING)).all())
    largest = features.abs().amax(0).double()
    used = largest >= 1e-30
    torch.testing.assert_close(
        LEVELS * steps[used], largest[used], rtol=1e-6, atol=0, msg="the step is as small as can be"
    )


@settings(max_examples=200, deadline=None)
@given(matrices)
def test_what_was_loaded_keeps_its_levels(values: np.ndarray) -> None:
    levels, scales = quantize(torch.from_numpy(values))
    again, scales_again = quantize(dequantize(levels, scales))
    assert torch.equal(again, levels)
    torch.testing.assert_close(scales_again, scales, rtol=1e-6, atol=0)


# ---- exports


@pytest.mark.parametrize("decoder", ["linear", "conv3x3"])
def test_an_int8_export_loads_what_was_saved_but_for_the_quantisation(tmp_path: Path, decoder: str) -> None:
    saved = make_gaussians(tmp_path / "capture", decoder=decoder).stored_as("int8")  # type: ignore[arg-type]
    saved.features[:, 2] = 0.0
    saved.features[:, 3] = -2.5
    saved.save(tmp_path / "room")
    loaded = FeatureGaussians.load(tmp_path / "room")
    assert loaded.scene.to_json() == saved.scene.to_json()
    assert loaded.features.dtype == torch.float32
    expected = {**tensors_of(saved), "features": dequantize(*quantize(saved.features))}
    for name, tensor in tensors_of(loaded).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6 if name == "quats" else 0, msg=name)
    assert torch.equal(loaded.features[:, 2], saved.features[:, 2])
    torch.testing.assert_close(loaded.features[:, 3], saved.features[:, 3])
    loaded.save(tmp_path / "again")
    torch.testing.assert_close(FeatureGaussians.load(tmp_path / "again").features, loaded.features, rtol=1e-6, atol=0)
    loaded.stored_as("fp16").save(tmp_path / "half")
    assert torch.equal(FeatureGaussians.load(tmp_path / "half").features, loaded.features.half().float())


def test_int8_is_version_2_and_holds_one_scale_per_channel(tmp_path: Path) -> None:
    make_gaussians(tmp_path / "capture").stored_as("int8").save(tmp_path / "room")
    scene = json.loads((tmp_path / "room/scene.json").read_text())
    assert (scene["format_version"], scene["feature_storage"]) == (2, "int8")
    with safe_open(tmp_path / "room/gaussians.safetensors", framework="pt") as file:
        assert file.metadata()["format_version"] == "2"
        assert file.get_tensor("features").dtype == torch.int8
        assert file.get_tensor("features_scale").shape == (8,)


def test_fp16_is_still_version_1_which_says_nothing_of_storage(tmp_path: Path) -> None:
    """What readers of version 1 take: the fields and tensors that it always had."""
    make_gaussians(tmp_path / "capture").save(tmp_path / "room")
    tensors, metadata, scene = read(tmp_path / "room")
    assert scene["format_version"] == 1
    assert metadata["format_version"] == "1"
    assert "feature_storage" not in scene
    assert "features_scale" not in tensors
    assert tensors["features"].dtype == torch.float16
    assert FeatureGaussians.load(tmp_path / "room").scene.feature_storage == "fp16"


def drop(tensor: torch.Tensor) -> None:
    return None


def with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[3] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("features", lambda t: t.half(), r"tensor 'features' is torch\.float16, not torch\.int8"),
        ("features", lambda t: t.to(torch.uint8), r"tensor 'features' is torch\.uint8, not torch\.int8"),
        ("features_scale", drop, r"tensor 'features_scale' is missing"),
        ("features_scale", lambda t: t[:-1], r"'features_scale' has shape \[7\] where scene\.json implies \[8\]"),
        ("features_scale", lambda t: t.half(), r"'features_scale' is torch\.float16, not torch\.float32"),
        ("features_scale", with_value(float("nan")), "'features_scale' has NaN or infinite values"),
        ("features_scale", with_value(float("inf")), "'features_scale' has NaN or infinite values"),
        ("features_scale", with_value(3e38), "some values of 'features_scale' are not positive, or beyond float32"),
        ("features_scale", with_value(0.0), "some values of 'features_scale' are not positive"),
        ("features_scale", with_value(-1.0), "some values of 'features_scale' are not positive"),
    ],
)
def test_a_bad_int8_export_is_named(
    tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None], complaint: str
) -> None:
    make_gaussians(tmp_path / "capture").stored_as("int8").save(tmp_path / "room")
    tensors, metadata, scene = read(tmp_path / "room")
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed.contiguous()
    write(tmp_path / "room", tensors, metadata, scene)
    refused(tmp_path / "room", rf"gaussians\.safetensors: .*{complaint}.*; export the scene again")


def test_a_storage_that_is_not_known_is_named(tmp_path: Path) -> None:
    make_gaussians(tmp_path / "capture").stored_as("int8").save(tmp_path / "room")
    tensors, metadata, scene = read(tmp_path / "room")
    write(tmp_path / "room", tensors, metadata, scene | {"feature_storage": "int4"})
    refused(tmp_path / "room", r"scene\.json: 'feature_storage' is 'int4', not one of fp16, int8; export")


def test_a_file_that_does_not_hold_what_the_scene_says_is_refused(tmp_path: Path) -> None:
    make_gaussians(tmp_path / "capture").save(tmp_path / "room")
    tensors, metadata, scene = read(tmp_path / "room")
    write(tmp_path / "room", tensors | {"features_scale": torch.ones(8)}, metadata, scene)
    refused(tmp_path / "room", r"features_scale.* is not part of the format .* fp16 features .*; export")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_not_quantised_away(tmp_path: Path, value: float) -> None:
    gaussians = make_gaussians(tmp_path).stored_as("int8")
    gaussians.features[5, 1] = value
    with pytest.raises(InputError, match=r"cannot export to .*: tensor 'features' has NaN or infinite .* train again"):
        gaussians.save(tmp_path / "room")
    assert not (tmp_path / "room").exists()


def test_features_beyond_half_precision_are_kept(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path / "capture").stored_as("int8")
    gaussians.features[0, 0] = 1e6
    gaussians.save(tmp_path / "room")
    assert float(FeatureGaussians.load(tmp_path / "room").features[0, 0]) == pytest.approx(1e6, rel=1e-6)


def test_finetuning_targets_from_int8_are_those_from_fp16_within_the_decoded_error(tmp_path: Path) -> None:
    """Blending weights add up to at most 1, so a target moves by at most |W| times the largest error per channel."""
    plane = make_plane(tmp_path / "captures", count=2000)
    for storage in ("fp16", "int8"):
        plane.stored_as(storage).save(tmp_path / storage / "runs" / "plane")  # type: ignore[arg-type]
    stores = []
    for storage in ("fp16", "int8"):
        [scene] = find_scenes(tmp_path / storage / "runs")
        stores.append(store_of(tmp_path / storage, scene))
    half, whole = (store.scenes[0].load() for store in stores)
    largest = (half.features - whole.features).abs().amax(0)
    # Targets are kept in half precision before decoding: another 2^-11 of the largest on either side.
    largest = largest + 2.0**-10 * half.features.abs().amax(0)
    bound = half.decoder["weight"].abs() @ largest
    for view in range(len(half.scene.views)):
        first, second = (store.get(0, view) for store in stores)
        assert torch.equal(first.weights, second.weights)
        assert bool(((first.features - second.features).abs() <= bound + 1e-5).all())
        loss = 1 - F.cosine_similarity(first.features, second.features, dim=-1)
        assert float(loss.mean()) < 0.005
        assert float(loss.mean()) > 0, "the two exports must differ for this to say anything"


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_a_position_term_is_kept_as_it_is_in_version_3(tmp_path: Path, storage: Any) -> None:
    saved = make_gaussians(tmp_path / "capture", view_dependence="position").stored_as(storage)
    saved.save(tmp_path / "room")
    loaded = FeatureGaussians.load(tmp_path / "room")
    assert loaded.scene.format_version == 3
    assert saved.position is not None
    assert loaded.position is not None
    torch.testing.assert_close(loaded.position, saved.position, rtol=0, atol=0)
    assert loaded.to("cpu").position is not None


def test_a_position_term_that_is_missing_or_unasked_for_is_refused(tmp_path: Path) -> None:
    make_gaussians(tmp_path / "capture", view_dependence="position").save(tmp_path / "room")
    tensors, metadata, scene = read(tmp_path / "room")
    write(tmp_path / "room", {k: v for k, v in tensors.items() if k != "position"}, metadata, scene)
    refused(tmp_path / "room", r"tensor 'position' is missing; export")
    write(tmp_path / "room", tensors | {"position": torch.zeros(3, 4, 7)}, metadata, scene)
    refused(tmp_path / "room", r"'position' has shape \[3, 4, 7\] where scene\.json implies \[K, K, 12\]; export")
    write(tmp_path / "room", tensors | {"position": torch.zeros(0, 4, 12)}, metadata, scene)
    refused(tmp_path / "room", r"'position' has no knots; export")
    write(tmp_path / "room", tensors, metadata, scene | {"feature_view_dependence": "none"})
    refused(tmp_path / "room", r"has export format version 3, but scene\.json beside it has 1")
    write(tmp_path / "room", tensors, metadata, scene | {"feature_view_dependence": "angle"})
    refused(tmp_path / "room", r"'feature_view_dependence' is 'angle', not one of none, position; export")
