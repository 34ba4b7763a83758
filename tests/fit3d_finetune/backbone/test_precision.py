"""bf16 is taken where it was measured to be faster, and a run keeps the precision that it began with."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest
import torch

import fit3d_finetune.backbone.precision as module
import fit3d_finetune.training.train as training
from fit3d_finetune.backbone.precision import choose_precision, product_seconds
from fit3d_finetune.training.checkpoint import CHECKPOINT_FILE
from fit3d_finetune.training.run import recorded_precision
from fit3d_finetune.training.stopping import TrainingInterrupted
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.scenes import BACKBONE, run_of, scene_of


@pytest.mark.parametrize(("fp32", "bf16", "expected"), [(1.0, 0.5, "bf16"), (1.0, 0.95, "fp32"), (1.0, 2.0, "fp32")])
def test_on_a_cpu_the_clearly_faster_one_is_taken(
    fp32: float, bf16: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {torch.float32: fp32, torch.bfloat16: bf16}
    monkeypatch.setattr(module, "product_seconds", seconds.__getitem__)
    assert choose_precision("auto", "cpu") == expected
    assert choose_precision("auto", "cpu", earlier="bf16") == "bf16"
    assert choose_precision("fp32", "cpu", earlier="bf16") == "fp32", "what the user says goes first"


def test_the_measurement_is_of_real_products_and_short() -> None:
    start = time.perf_counter()
    assert 0 < product_seconds(torch.float32) <= time.perf_counter() - start
    assert time.perf_counter() - start < 10


def test_a_run_that_goes_on_keeps_the_precision_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(tmp_path)
    out = tmp_path / "out"
    assert recorded_precision(out) is None
    begun = dataclasses.replace(run_of(out, [scene]), backbone=dataclasses.replace(BACKBONE, precision="bf16"))
    step = training.training_step

    def interrupted(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "training_step", interrupted)
        with pytest.raises(TrainingInterrupted):
            finetune(begun)
    assert recorded_precision(out) == "bf16"
    finetune(begun)
    assert recorded_precision(out) == "bf16", "also of a finished run"
    (out / "fit3d.json").unlink()
    (out / CHECKPOINT_FILE).write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="damaged"):
        recorded_precision(out)
