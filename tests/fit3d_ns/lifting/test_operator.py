"""The sparse matrix of blending weights on the patch grid against rendering and autograd."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fit3d_ns.lifting.operator import RenderOperator, SparseOperator, cell_weights, patch_operator
from fit3d_ns.scene.views import PinholeView
from tests.fit3d_ns.lifting.scenes import GRID, ODD_GRID, dense, small_scene

CASES = [
    pytest.param({"grid": GRID}, id="cells of whole pixels"),
    pytest.param({"grid": ODD_GRID}, id="cells that cut pixels"),
    pytest.param({"grid": (40, 56)}, id="one cell per pixel"),
    pytest.param({"grid": (50, 61)}, id="cells smaller than pixels"),
    pytest.param({"grid": (1, 1)}, id="one cell"),
    pytest.param({"masked": True}, id="masks"),
    pytest.param({"masked": True, "grid": GRID}, id="masks, whole pixels"),
    pytest.param({"antialiased": True}, id="antialiased"),
    pytest.param({"n": 600, "size": 0.4}, id="tiles of several chunks, finished pixels"),
]


@pytest.mark.parametrize("settings", CASES)
def test_every_entry_of_the_sparse_matrix_is_what_rendering_and_pooling_give(settings: dict) -> None:  # type: ignore[type-arg]
    geometry, views = small_scene(**settings)
    matrix = SparseOperator.build(geometry, views).matrix
    rendered = RenderOperator(geometry, views).apply(torch.eye(len(geometry)))
    torch.testing.assert_close(torch.from_numpy(matrix.toarray()), rendered, rtol=1e-4, atol=1e-5)
    assert float(rendered.max()) > 0.01
    assert len(set(zip(*matrix.nonzero(), strict=True))) == matrix.nnz, "an entry is stored twice"


@pytest.mark.parametrize("settings", CASES)
def test_the_transpose_is_the_gradient_of_rendering(settings: dict) -> None:  # type: ignore[type-arg]
    geometry, views = small_scene(**settings)
    sparse, rendering = SparseOperator.build(geometry, views), RenderOperator(geometry, views)
    values = torch.randn(sparse.num_cells, 9)
    torch.testing.assert_close(sparse.transpose(values), rendering.transpose(values), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [SparseOperator.build, RenderOperator])
def test_transpose_and_normal_are_those_of_the_dense_matrix(kind) -> None:  # type: ignore[no-untyped-def]
    operator = kind(*small_scene(masked=True))
    matrix = dense(operator)
    values, features = torch.randn(operator.num_cells, 6), torch.randn(operator.num_gaussians, 6)
    weights = torch.rand(operator.num_cells)
    torch.testing.assert_close(operator.transpose(values), (matrix.T @ values.double()).float(), rtol=1e-4, atol=1e-5)
    normal = matrix.T @ (weights[:, None] * (matrix @ features.double()))
    torch.testing.assert_close(operator.normal(features, weights), normal.float(), rtol=1e-4, atol=1e-5)


def test_rows_sum_to_the_opacity_that_a_cell_sees() -> None:
    geometry, views = small_scene(n=400, size=0.4)
    rows = SparseOperator.build(geometry, views).matrix.sum(1)
    assert float(rows.min()) >= 0
    assert 0.5 < float(rows.max()) <= 1 + 1e-5


def test_a_view_that_sees_nothing_has_empty_rows() -> None:
    geometry, views = small_scene()
    away = views[0].world_to_camera.clone()
    away[2, 3] = -100  # everything is behind the camera
    blind = dataclasses.replace(views[0], world_to_camera=away)
    matrix = SparseOperator.build(geometry, [views[0], blind, views[1]]).matrix
    cells = ODD_GRID[0] * ODD_GRID[1]
    assert matrix[cells : 2 * cells].nnz == 0
    both = SparseOperator.build(geometry, views[:2]).matrix
    assert abs(matrix[[*range(cells), *range(2 * cells, 3 * cells)]] - both).max() == 0


def test_masked_pixels_have_no_weight_at_all() -> None:
    geometry, views = small_scene(grid=(40, 56))
    mask = torch.ones(40, 56)
    mask[:, :20] = 0
    masked = [dataclasses.replace(view, mask=mask) for view in views]
    maps = dense(SparseOperator.build(geometry, masked)).reshape(3, 40, 56, -1)
    assert float(maps[:, :, :20].abs().max()) == 0
    torch.testing.assert_close(
        maps[:, :, 20:], dense(SparseOperator.build(geometry, views)).reshape(3, 40, 56, -1)[:, :, 20:]
    )


def test_cells_less_than_half_unmasked_do_not_count() -> None:
    mask = torch.zeros(8, 12)
    mask[:, :4] = 1
    mask[:3, 4:8] = 1  # 3/8 of the second column of cells
    mask[:5, 8:] = 1  # 5/8 of the third
    view = PinholeView(torch.eye(4), torch.eye(3), 12, 8, (1, 3), mask)
    torch.testing.assert_close(cell_weights([view, dataclasses.replace(view, mask=None)]),
                               torch.tensor([1.0, 0.0, 0.625, 1.0, 1.0, 1.0]))  # fmt: skip


def test_the_same_scene_gives_the_same_bits_twice() -> None:
    geometry, views = small_scene(n=300, size=0.3)
    first, second = (SparseOperator.build(geometry, views) for _ in range(2))
    assert (first.matrix != second.matrix).nnz == 0
    features = torch.randn(len(geometry), 64)
    assert torch.equal(first.apply(features), second.apply(features))
    values = torch.randn(first.num_cells, 64)
    assert torch.equal(first.transpose(values), second.transpose(values))


def test_a_cpu_scene_gets_the_matrix() -> None:
    assert isinstance(patch_operator(*small_scene()), SparseOperator)


def test_no_views_is_an_error() -> None:
    geometry, _ = small_scene()
    for kind in (SparseOperator.build, RenderOperator):
        with pytest.raises(ValueError, match="no views"):
            kind(geometry, [])


@pytest.mark.gpu
def test_cuda_renders_what_the_matrix_holds() -> None:
    geometry, views = small_scene(masked=True)
    operator = patch_operator(geometry.to("cuda"), views)
    expected = dense(SparseOperator.build(geometry, views)).float()
    actual = operator.apply(torch.eye(len(geometry), device="cuda")).cpu()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
