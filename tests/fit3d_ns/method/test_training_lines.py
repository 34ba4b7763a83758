"""A training without a terminal says how far it is eleven times, not every ten steps."""

from __future__ import annotations

import io
import sys

import pytest
from nerfstudio.configs.base_config import writer  # nerfstudio.utils.writer imports it in a circle

from fit3d_ns.method.training_lines import TrainingLines, TrainingLinesConfig, line
from tests.fit3d_ns.method.runs import PRESETS


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nerfstudio's trainer sets up, for 1,000 steps."""
    monkeypatch.setattr(writer, "EVENT_WRITERS", [TrainingLinesConfig(enable=True).setup()])
    monkeypatch.setattr(writer, "EVENT_STORAGE", [])
    buffer = {"max_iter": 1000, "max_buffer_size": 20, "steps_per_log": 10, "events": {}}
    for name, value in buffer.items():
        monkeypatch.setitem(writer.GLOBAL_BUFFER, name, value)


def train() -> None:
    for step in range(1000):
        writer.put_time(writer.EventName.ITER_TRAIN_TIME, 0.02, step, update_eta=True)
        if step % 10 == 0:
            writer.put_scalar("Train Loss", 0.5, step)
        writer.write_out_storage()


@pytest.mark.usefixtures("trained")
def test_a_thousand_steps_are_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    train()
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("Training: step 0 of 1000 (0 %), loss 0.5000, 20 ms a step")
    assert lines[9] == "Training: step 900 of 1000 (90 %), loss 0.5000, 20 ms a step, 0:00:02 left"
    assert "\x1b" not in text


@pytest.mark.usefixtures("trained")
def test_a_terminal_has_nerfstudios_table(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", terminal)
    train()
    assert "Step (% Done)" in terminal.getvalue()
    assert len(terminal.getvalue().splitlines()) > 100


def test_a_run_that_goes_on_has_no_share_above_all() -> None:
    assert line(1200, 1000, {}) == "Training: step 1200"
    assert line(1200, 1000, {"ETA (time)": -1.0}) == "Training: step 1200"


def test_every_method_of_ours_has_it() -> None:
    for method in PRESETS.values():
        assert method.config.logging.local_writer.setup().__class__ is TrainingLines
