"""k-means: finds what is there, always the same, and leaves random numbers alone."""

from __future__ import annotations

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fit3d_ns.features.clusters import fit_clusters, nearest_cluster


def _blobs(count: int, sizes: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around far-away centres, with much in common as features have, and which belongs where."""
    generator = torch.Generator().manual_seed(seed)
    centers = 20 * torch.linalg.qr(torch.randn(8, 8, generator=generator))[0][:count] + 50
    labels = torch.repeat_interleave(torch.arange(count), torch.tensor(sizes))
    return centers[labels] + torch.randn(len(labels), 8, generator=generator), labels


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 6), st.integers(0, 1000))
@example(6, 0)  # one start from single draws merges two groups here
def test_separate_groups_are_found_the_largest_first(count: int, seed: int) -> None:
    points, labels = _blobs(count, [60 - 10 * i for i in range(count)], seed)
    centers = fit_clusters(points, count)
    assert torch.equal(nearest_cluster(points, centers), labels)


def test_centres_are_means_of_their_points() -> None:
    points = torch.randn(500, 5) + 3
    centers = fit_clusters(points, 4)
    belongs = nearest_cluster(points, centers)
    for index, center in enumerate(centers):
        torch.testing.assert_close(points[belongs == index].mean(0), center, atol=0.1, rtol=0)


def test_the_same_points_give_the_same_centres_and_no_random_number_is_used_up() -> None:
    points = torch.randn(300, 6)
    state = torch.get_rng_state()
    first = fit_clusters(points, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(fit_clusters(points, 5), first)


def test_points_without_weight_do_not_count() -> None:
    points, labels = _blobs(3, [50, 40, 30], seed=1)
    weights = (labels != 2).float()
    centers = fit_clusters(points, 2, weights)
    expected = torch.stack([points[labels == i].mean(0) for i in range(2)])
    torch.testing.assert_close(centers, expected, atol=1e-3, rtol=1e-4)


def test_fewer_different_points_than_clusters_give_fewer_centres() -> None:
    points = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(torch.tensor([5, 2]), dim=0)
    assert torch.allclose(fit_clusters(points, 6), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert len(fit_clusters(torch.zeros(4, 3), 3)) == 1
    assert len(fit_clusters(torch.zeros(1, 3), 3, torch.zeros(1))) == 1
