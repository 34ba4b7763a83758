"""Pairs of photos to compare."""

from __future__ import annotations

import numpy as np

from fit3d_ns.reconstruction.pairs import ANCHORS, NEIGHBOURS, alike_pairs, all_pairs, sequential_pairs


def test_all_pairs_are_all() -> None:
    assert all_pairs(["a", "b", "c"]) == [("a", "b"), ("a", "c"), ("b", "c")]


def test_frames_meet_their_neighbours_and_distant_anchors_but_not_all() -> None:
    names = [f"{index:04d}" for index in range(400)]
    pairs = set(sequential_pairs(names))
    for i in (0, 123, 389):
        assert all((names[i], names[i + d]) in pairs for d in range(1, NEIGHBOURS + 1) if i + d < 400)
    assert (names[0], names[-1]) in pairs  # the camera may have come back
    assert len(pairs) < 400 * (NEIGHBOURS + 6) + ANCHORS**2 / 2
    assert all(first < second for first, second in pairs)


def test_of_few_frames_every_two_are_compared() -> None:
    names = [str(index) for index in range(9)]
    assert set(sequential_pairs(names)) == set(all_pairs(names))


def test_photos_that_show_the_same_are_found() -> None:
    generator = np.random.default_rng(0)
    places = [generator.integers(0, 200, (300, 128)) for _ in range(12)]
    descriptors, names = {}, []
    for turn in range(4):  # the places in turn, so that neighbours by name are of other places
        for place, features in enumerate(places):
            name = f"{turn}_{place:02d}"
            names.append(name)
            seen = features[generator.permutation(300)[:200]] + generator.integers(0, 20, (200, 128))
            descriptors[name] = seen.astype(np.uint8)
    pairs = set(alike_pairs(names, descriptors, alike=3))
    same = [(a, b) for a, b in all_pairs(names) if a[2:] == b[2:]]
    assert sum(pair in pairs for pair in same) >= 0.95 * len(same)
    assert len(pairs) < 0.4 * len(all_pairs(names))
    assert alike_pairs(names, descriptors, alike=3) == alike_pairs(names, descriptors, alike=3)


def test_photos_without_features_disturb_nobody() -> None:
    generator = np.random.default_rng(0)
    descriptors = {name: generator.integers(0, 255, (50, 128), dtype=np.uint8) for name in "abcd"}
    descriptors["c"] = np.empty((0, 128), np.uint8)
    assert ("a", "b") in alike_pairs(list("abcd"), descriptors, alike=2)
