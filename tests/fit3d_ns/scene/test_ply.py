"""splat.ply is what other people's programs read: plyfile and open3d are the judges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from fit3d_ns.common.errors import InputError
from fit3d_ns.scene import ply
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.ply import read_splat_ply, write_splat_ply
from fit3d_ns.scene.splats import Splats
from tests.fit3d_ns.scene.scenes import make_gaussians


def make_splats(count: int = 20, coefficients: int = 16, seed: int = 0) -> Splats:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    return Splats(
        means=normal(count, 3),
        quats=torch.nn.functional.normalize(normal(count, 4), dim=-1),
        scales=torch.exp(normal(count, 3) - 3),
        opacities=torch.rand(count, generator=random),
        sh=normal(count, coefficients, 3),
    )


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 300), coefficients=st.sampled_from([1, 4, 9, 16]), seed=st.integers(0, 1000))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, count: int, coefficients: int, seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.ply"
    splats = make_splats(count, coefficients, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ply, "_ROWS_AT_ONCE", 64)  # so that several blocks are written
        write_splat_ply(path, splats)
    got = read_splat_ply(path)
    for name in ("means", "quats", "sh"):
        assert (getattr(got, name) == getattr(splats, name)).all(), name
    np.testing.assert_allclose(got.scales, splats.scales, rtol=2e-6)
    np.testing.assert_allclose(got.opacities, splats.opacities, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("coefficients", [1, 4, 16])
def test_plyfile_reads_the_layout_of_the_reference_implementation(tmp_path: Path, coefficients: int) -> None:
    splats = make_splats(coefficients=coefficients)
    write_splat_ply(tmp_path / "splat.ply", splats)
    vertex = PlyData.read(tmp_path / "splat.ply")["vertex"]
    rest = 3 * (coefficients - 1)
    names = [*"xyz", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(rest))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    assert [p.name for p in vertex.properties] == names
    assert all(p.val_dtype == "f4" for p in vertex.properties)

    def columns(prefix: str, count: int) -> np.ndarray:
        return np.stack([vertex[f"{prefix}{i}"] for i in range(count)], axis=1)

    # The reader of the reference implementation (GaussianModel.load_ply), retold.
    assert (np.stack([vertex[axis] for axis in "xyz"], axis=1) == splats.means.numpy()).all()
    assert (columns("f_dc_", 3) == splats.sh[:, 0].numpy()).all()
    if rest:
        higher = columns("f_rest_", rest).reshape(-1, 3, coefficients - 1)
        assert (higher.transpose(0, 2, 1) == splats.sh[:, 1:].numpy()).all()
    np.testing.assert_allclose(np.exp(columns("scale_", 3)), splats.scales, rtol=2e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-vertex["opacity"])), splats.opacities, rtol=2e-6, atol=2e-7)
    assert (columns("rot_", 4) == splats.quats.numpy()).all()


def test_open3d_reads_the_positions(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d")
    splats = make_splats()
    write_splat_ply(tmp_path / "splat.ply", splats)
    cloud = open3d.io.read_point_cloud(str(tmp_path / "splat.ply"))
    np.testing.assert_allclose(np.asarray(cloud.points), splats.means, rtol=1e-6)


def test_open3d_reads_every_attribute_of_an_export(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d")
    gaussians = make_gaussians(tmp_path)
    gaussians.save(tmp_path / "room")
    cloud = open3d.t.io.read_point_cloud(str(tmp_path / "room/splat.ply"))
    loaded = FeatureGaussians.load(tmp_path / "room")
    np.testing.assert_allclose(cloud.point["positions"].numpy(), loaded.means.numpy(), rtol=1e-6)
    opacity = cloud.point["opacity"].numpy().reshape(-1)
    np.testing.assert_allclose(1 / (1 + np.exp(-opacity)), loaded.opacities.numpy(), rtol=1e-5, atol=1e-6)


def test_a_file_that_plyfile_wrote_is_read(tmp_path: Path) -> None:
    splats = make_splats(coefficients=4)
    write_splat_ply(tmp_path / "ours.ply", splats)
    table = PlyData.read(tmp_path / "ours.ply")["vertex"].data
    # Another order of properties, another type, one property more, a comment.
    mixed = np.empty(
        len(table), dtype=[("label", "u1"), *((n, "f8" if n == "x" else "f4") for n in reversed(table.dtype.names))]
    )
    for name in table.dtype.names:
        mixed[name] = table[name]
    element = PlyElement.describe(mixed, "vertex")
    PlyData([element], text=False, byte_order="<", comments=["theirs"]).write(tmp_path / "theirs.ply")
    got = read_splat_ply(tmp_path / "theirs.ply")
    assert (got.means == splats.means).all()
    assert (got.sh == splats.sh).all()


def test_opacities_of_0_and_1_stay_finite(tmp_path: Path) -> None:
    splats = make_splats(count=2)
    splats.opacities.copy_(torch.tensor([0.0, 1.0]))
    write_splat_ply(tmp_path / "splat.ply", splats)
    logits = np.asarray(PlyData.read(tmp_path / "splat.ply")["vertex"]["opacity"])
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(read_splat_ply(tmp_path / "splat.ply").opacities, [0, 1], atol=2e-7)


HEADER = b"ply\nformat binary_little_endian 1.0\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not a binary little-endian PLY file"),
        (b"solid\n", "is not a binary little-endian PLY file"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "is not a binary little"),
        (HEADER + b"element vertex 1\nproperty list uchar int a\nend_header\n", "is not a binary little"),
        (HEADER + b"element vertex -1\nproperty float x\nend_header\n", "is not a binary little"),
        (HEADER + b"element vertex 1\nproperty float x\nproperty float x\nend_header\n", "is not a binary little"),
        (HEADER + b"element vertex 1\nproperty float x\n", "is not a binary little"),
        (HEADER + b"element vertex 9999999999\nproperty float x\nend_header\n1234", "is truncated .4 of 39999999996"),
        (HEADER + b"element vertex 1\nproperty float x\nend_header\n1234", "has no property 'f_dc_0'"),
        (HEADER + b"element vertex 1\nproperty float f_rest_0\nend_header\n1234", "has 1 f_rest properties"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.ply {complaint}.*; "):
        read_splat_ply(tmp_path / "a.ply")


def test_a_truncated_file_is_refused_by_name(tmp_path: Path) -> None:
    write_splat_ply(tmp_path / "a.ply", make_splats())
    (tmp_path / "a.ply").write_bytes((tmp_path / "a.ply").read_bytes()[:-1])
    with pytest.raises(InputError, match=r"a\.ply is truncated \(4959 of 4960 bytes of data\); write or download it"):
        read_splat_ply(tmp_path / "a.ply")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.ply cannot be read .*; check the path"):
        read_splat_ply(tmp_path / "a.ply")
