"""The costs of fine-tuning are measured on whole steps: with heads where there should be some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import stage2
from fit3d_finetune.training.learner import Learner
from tests.fit3d_finetune.scenes import write_export


def test_steps_with_heads_and_without_are_measured_beside_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[set[str]] = []
    step = stage2.training_step

    def watched(learner: Learner, *arguments: Any) -> Any:
        figures = step(learner, *arguments)
        taught.append(set(figures) - {"loss", "cosine", "grad_norm"})
        return figures

    monkeypatch.setattr(stage2, "training_step", watched)
    alone, heads = stage2.finetuning_steps(write_export(tmp_path / "export"), "cpu", steps=2, warmup=1)
    assert taught == [set(), {"depth", "normals", "class_token"}] * 3
    assert set(alone.parts_ms) == {"clipping", "AdamW"}
    assert min(alone.ours_ms, alone.reference_ms, heads.ours_ms, heads.reference_ms) > 0
    assert heads.ratio == heads.ours_ms / heads.reference_ms
