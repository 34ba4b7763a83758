"""The page about the position term."""

from __future__ import annotations

from benchmarks.lifting import Reached
from benchmarks.view_dependence import LATEST, WAYS, page


def test_the_page_has_a_row_for_every_scene_and_their_mean() -> None:
    scenes = {
        name: {way: Reached(seconds=1.0, cosine=cosine + 0.1 * index) for index, way in enumerate(WAYS)}
        for name, cosine in {"a": 0.5, "b": 0.7}.items()
    }
    assert list(WAYS)[-1] == LATEST
    lines = page(scenes)
    assert lines[-3].startswith("| a | 0.5000 | 0.6000 | 0.7000 | +0.1000 | 1.0")
    assert lines[-1].startswith("| mean | 0.6000 | 0.7000 | 0.8000 | +0.1000 |")
