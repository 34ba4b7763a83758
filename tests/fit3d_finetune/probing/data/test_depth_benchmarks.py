"""The crops of depth benchmarks, at the pixels where the published code has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.depth_benchmarks import DEPTH_BENCHMARKS
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.probing.scenes import write_scene


def box(depth: np.ndarray) -> tuple[int, int, int, int]:
    """First and one past the last row and column of what is known; all of it must be."""
    rows, columns = np.flatnonzero(depth.any(1)), np.flatnonzero(depth.any(0))
    found = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert depth[found[0] : found[1], found[2] : found[3]].all()
    return tuple(int(value) for value in found)


@pytest.mark.parametrize("name", ["nyu", "scannet"])
def test_eigens_crop(name: str) -> None:
    assert box(DEPTH_BENCHMARKS[name].scored(np.ones((480, 640), np.float32))) == (45, 471, 41, 601)


def test_gargs_crop_lies_within_kittis_test_region() -> None:
    kitti = DEPTH_BENCHMARKS["kitti"]
    assert kitti.test_region(375, 1242) == (slice(23, 375), slice(13, 1229))
    assert kitti.training_region(375, 1242) == kitti.test_region(375, 1242)
    assert box(kitti.scored(np.ones((375, 1242), np.float32))) == (23 + 143, 23 + 349, 13 + 43, 13 + 1172)


def test_nyu_is_trained_without_its_border_and_tested_with_it() -> None:
    rows, columns = DEPTH_BENCHMARKS["nyu"].training_region(480, 640)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (45, 472, 43, 608)
    assert DEPTH_BENCHMARKS["nyu"].test_region(480, 640) == (slice(None), slice(None))


def test_without_a_benchmark_all_of_the_truth_is_scored() -> None:
    depth = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    assert DEPTH_BENCHMARKS["none"].scored(depth) is depth


@pytest.mark.parametrize("name", ["scannet", "nyu", "kitti"])
def test_images_of_another_size_are_refused_by_name(tmp_path: Path, name: str) -> None:
    data = read_data([str(write_scene(tmp_path / "scene", views=1))])
    with pytest.raises(InputError, match=rf"--depth-benchmark {name} is for images of .*frame_000.png is 64x48"):
        DEPTH_BENCHMARKS[name].check(data)
    DEPTH_BENCHMARKS["none"].check(data)


def test_images_of_the_right_size_are_not_refused(tmp_path: Path) -> None:
    indoor = read_data([str(write_scene(tmp_path / "indoor", views=1, size=(640, 480)))])
    street = read_data([str(write_scene(tmp_path / "street", views=1, size=(1242, 375)))])
    DEPTH_BENCHMARKS["nyu"].check(indoor)
    DEPTH_BENCHMARKS["scannet"].check(indoor)
    DEPTH_BENCHMARKS["kitti"].check(street)
    with pytest.raises(InputError, match="is for images of 640x480"):
        DEPTH_BENCHMARKS["nyu"].check([*indoor, *street])
