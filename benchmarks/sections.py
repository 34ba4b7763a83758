"""The sections of `python -m benchmarks`, in the order of the table."""

from __future__ import annotations

import importlib.util

from benchmarks import cuda, growth, lifting, memory, rasterization, stage1, stage2, storage
from benchmarks.rows import Aim, Row, Section, Setting, Skip

STEP_AIM, FINETUNING_AIM, HEADS_AIM, PROBES_AIM = 2.0, 1.05, 1.08, 1.5


def training_step(setting: Setting) -> list[Row]:
    """The whole step, and its parts, against the rasteriser alone."""
    if importlib.util.find_spec("benchmarks.training_step") is None:
        raise Skip("benchmarks.training_step is not part of this checkout")
    if setting.quick:
        raise Skip("it trains for minutes to where a step is whole; run without --quick")
    from benchmarks import training_step as step

    measured = {row.name: row for row in step.measure(setting.capture)}
    alone = measured[step.ALONE]
    return [
        Row(
            row.name,
            "ms",
            row.median_ms,
            alone.median_ms,
            "rasteriser alone",
            row.min_ms,
            alone.min_ms,
            Aim("ratio", "at most", STEP_AIM) if row.name == step.WHOLE else None,
        )
        for row in measured.values()
        if row is not alone
    ]


def finetuning(setting: Setting) -> list[Row]:
    """Fine-tuning steps without heads and with them against plain ones, and probes of many arms against one."""
    alone, heads = stage2.finetuning_steps(setting.exports[0], setting.device, steps=5 if setting.quick else 15)
    probes = stage2.probes(list(setting.labelled), 20 if setting.quick else 60, setting.repeats)
    steps = [_stage2_row(alone, FINETUNING_AIM), _stage2_row(heads, HEADS_AIM)]
    return [*steps, *(_stage2_row(row, PROBES_AIM) for row in probes)]


def _stage2_row(row: stage2.Row, bound: float) -> Row:
    parts = dict(getattr(row, "parts_ms", {}))
    if row.waited_ms is not None:
        parts["waiting for data"] = row.waited_ms
    note = ", ".join(f"{name} {value:.1f} ms" for name, value in parts.items())
    return Row(row.name, "ms", row.ours_ms, row.reference_ms, aim=Aim("ratio", "at most", bound), note=note)


SECTIONS = (
    Section("rasteriser", "CPU rasteriser, 448x336, 20,000 Gaussians", rasterization.measure),
    Section("lifting", "Lifting against training features", lifting.measure),
    Section("step", "A training step of fit3d-features-fast", training_step),
    Section("finetuning", "Fine-tuning step and probes", finetuning),
    Section("storage", "Features of an export: size, load time, loss", storage.measure),
    Section("memory", "Peak memory", memory.measure),
    Section("growth", "Growth of time: fitted exponents", growth.measure),
    Section("cuda", "CUDA", cuda.measure),
    Section("stage1", "Stage 1 of a room: fit3d-features against fit3d-features-paper", stage1.measure),
)
