"""Which photos to compare with which: all, neighbours in time, or those that look alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.cluster.vq import kmeans2, vq

Array = np.ndarray[Any, np.dtype[Any]]
Pair = tuple[str, str]

NEIGHBOURS = 10
"""Frames of a video are compared with so many that follow, then with those 16, 32 ... later."""
ANCHORS = 40
"""So many frames, spread over a video, are all compared with each other: the camera may come back."""
ALIKE = 30
"""So many photos that look most alike are compared with each photo of a large set."""

_WORDS = 64
_PER_PHOTO = 400


def all_pairs(names: Sequence[str]) -> list[Pair]:
    return list(combinations(names, 2))


def sequential_pairs(names: Sequence[str]) -> list[Pair]:
    """Pairs of frames that follow each other closely, or at distances of powers of two, and of the anchors."""
    count = len(names)
    distances = [*range(1, NEIGHBOURS + 1)]
    distances += [2**power for power in range(4, 32) if NEIGHBOURS < 2**power < count]
    found = {(i, i + distance) for distance in distances for i in range(count - distance)}
    anchors = np.unique(np.round(np.linspace(0, count - 1, min(count, ANCHORS))).astype(int)).tolist()
    found |= set(combinations(anchors, 2))
    return [(names[i], names[j]) for i, j in sorted(found)]


def alike_pairs(names: Sequence[str], descriptors: Mapping[str, Array], alike: int = ALIKE) -> list[Pair]:
    """Pairs of photos whose features are alike as a whole, and of neighbours by name.

    Features are assigned to visual words, found among the photos' own; the differences from the words, added up,
    describe a photo (VLAD).

    Args:
        names: of the photos.
        descriptors: of the features of each [F, 128].
        alike: how many photos each is compared with.
    """
    few = {name: _some(np.asarray(descriptors[name], dtype=np.float32)) for name in names}
    pool = np.concatenate(list(few.values()))
    words = min(_WORDS, max(1, len(pool) // 8))
    sample = pool[np.random.default_rng(0).permutation(len(pool))[: 400 * words]]
    centres, _ = kmeans2(sample, words, minit="++", seed=0)
    codes = np.stack([_vlad(few[name], centres) for name in names])
    similarity = codes @ codes.T
    np.fill_diagonal(similarity, -np.inf)
    found = {(i, i + distance) for distance in (1, 2) for i in range(len(names) - distance)}
    for i, row in enumerate(similarity):
        best = np.argsort(-row, kind="stable")[: min(alike, len(names) - 1)]
        found |= {(min(i, int(j)), max(i, int(j))) for j in best}
    return [(names[i], names[j]) for i, j in sorted(found)]


def _some(descriptors: Array) -> Array:
    """At most `_PER_PHOTO` of them, evenly, each to the root of its shares (RootSIFT)."""
    if len(descriptors) > _PER_PHOTO:
        descriptors = descriptors[np.linspace(0, len(descriptors) - 1, _PER_PHOTO).astype(int)]
    root: Array = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6))
    return root


def _vlad(descriptors: Array, centres: Array) -> Array:
    """[words x 128], of length 1."""
    code = np.zeros_like(centres)
    if len(descriptors):
        words, _ = vq(descriptors, centres)
        np.add.at(code, words, descriptors - centres[words])
    code /= np.maximum(np.linalg.norm(code, axis=1, keepdims=True), 1e-6)
    flat: Array = code.reshape(-1)
    return flat / max(float(np.linalg.norm(flat)), 1e-6)
