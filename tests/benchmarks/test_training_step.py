"""The benchmark of the training step measures all of it, and each part once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from benchmarks import training_step
from benchmarks.training_step import ALONE, WHOLE, Spent, Stopwatch, make_config, measure
from fit3d_ns.method.trainer import Fit3DTrainerConfig


@pytest.fixture
def _small_backbone() -> Iterator[None]:
    def make_small(data: Path, folder: Path, weights: str | None) -> Fit3DTrainerConfig:
        config = make_config(data, folder, weights)
        datamanager = config.pipeline.datamanager
        datamanager.backbone = dataclasses.replace(datamanager.backbone, name="vit_tiny_patch16_224", weights="random")
        return config

    with patch.object(training_step, "make_config", make_small):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_small_backbone")
def test_parts_and_the_rest_are_the_whole_step(tiny_capture: Path) -> None:
    writers = list(training_step.writer.EVENT_WRITERS)
    rows = {row.name: row for row in measure(tiny_capture, steps=1, warmup=1, first_step=1)}
    # A training after this one must not write into its folder, which is gone.
    assert writers == training_step.writer.EVENT_WRITERS
    parts = [row for name, row in rows.items() if name != WHOLE and not name.startswith(ALONE)]
    assert {"data", "rasteriser forward", "losses", "backward", "optimisers", "densification"} <= rows.keys()
    assert sum(row.median_ms for row in parts) == pytest.approx(rows[WHOLE].median_ms)
    assert all(row.median_ms > 0 for row in parts)
    assert rows[WHOLE].share == pytest.approx(rows[WHOLE].median_ms / rows[ALONE].median_ms)


def test_a_part_does_not_count_what_a_part_inside_it_took() -> None:
    clock = iter([0.0, 10.0, 14.0, 20.0])  # outer starts, inner starts, inner ends, outer ends
    watch = Stopwatch()
    with patch.object(Spent, "now", lambda: Spent(next(clock))), watch.part("outer"), watch.part("inner"):
        pass
    assert watch.parts == {"outer": Spent(16.0), "inner": Spent(4.0)}
