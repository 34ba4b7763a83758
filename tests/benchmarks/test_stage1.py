"""Two trainings of one capture: how they are shortened, resumed, timed and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from benchmarks import __main__ as command
from benchmarks import stage1
from benchmarks.rows import Section, Setting, Skip
from benchmarks.stage1 import OURS, PAPER, STEP_TIME, WHOLE, Log, Result, Training, measure, rows_of, schedule
from benchmarks.tasks import Task
from tests.scenes import TINY_BACKBONE


def setting(capture: Path, work_dir: Path, *asked: str, steps: int | None = None) -> Setting:
    return Setting(work_dir, True, "cpu", lambda: (), (), capture, asked, steps)


def result(seconds: float = 10.0, psnr: float = 30.0, l1: float = 0.5, cosine: float = 0.8, mb: float = 0.0) -> Result:
    return Result(seconds, psnr, l1, cosine, 1000, mb)


@pytest.mark.parametrize("method", [OURS, PAPER])
def test_a_whole_preset_is_left_as_it_is_and_a_tenth_has_a_tenth_of_every_schedule(method: str) -> None:
    assert schedule(method, WHOLE) == ()
    words = schedule(method, WHOLE // 10)
    options = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    model = stage1.preset(method).pipeline.model
    assert options["--pipeline.model.feature-start-step"] == model.feature_start_step // 10
    assert options["--pipeline.model.stop-split-at"] == 1500
    assert options["--pipeline.model.refine-every"] == 10
    assert options["--optimizers.means.scheduler.max-steps"] == 3000
    assert options["--optimizers.camera-opt.scheduler.warmup-steps"] == 100
    assert "--optimizers.quats.scheduler.max-steps" not in options, "it has no schedule"


def test_schedules_that_are_off_stay_off_and_the_others_keep_a_step() -> None:
    options = schedule(PAPER, 3)
    assert options[options.index("--pipeline.model.feature-start-step") + 1] == "0"
    assert options[options.index("--pipeline.model.refine-every") + 1] == "1"


def test_the_section_waits_to_be_asked_for_where_there_is_no_gpu(tmp_path: Path) -> None:
    with pytest.raises(Skip, match="--only stage1 --stage1-steps"):
        measure(setting(tmp_path, tmp_path))


def test_the_command_passes_on_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[Setting]()
    section = Section("stage1", "", lambda setting: given.append(setting) or [])
    monkeypatch.setattr(command, "chosen", lambda names: [section])
    words = ["--only", "stage1", "--stage1-steps", "40", "--work-dir", str(tmp_path), "--device", "cpu"]
    command.run(command.parse(words))
    [setting] = given
    assert (setting.asked, setting.stage1_steps) == (("stage1",), 40)


def test_a_stopped_training_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    training = Training(OURS, tmp_path / "room", tmp_path, 30_000, "cpu")
    train, judge = training.tasks()
    assert "--load-dir" not in train.command
    assert train.command[train.command.index("--max-num-iterations") + 1] == "30000"
    assert judge.needs == (train.makes,)
    training.checkpoints.mkdir(parents=True)
    for step in (2000, 12_000):
        (training.checkpoints / f"step-{step:09d}.ckpt").touch()
    train, _ = training.tasks()
    assert train.command[train.command.index("--load-dir") + 1] == str(training.checkpoints)
    assert train.command[train.command.index("--max-num-iterations") + 1] == str(30_000 - 12_001)


def write_log(training: Training, suffix: str, steps: dict[int, float], gaussians: int, mb: float) -> None:
    """What ns-train and ns-eval leave, as far as it is read."""
    writer = SummaryWriter(str(training.folder), filename_suffix=suffix)
    for step, seconds in steps.items():
        writer.add_scalar(STEP_TIME, seconds, step)
    writer.add_scalar("Train Metrics Dict/gaussian_count", gaussians, max(steps))
    writer.add_scalar("GPU Memory (MB)", mb, max(steps))
    writer.close()
    metrics = {"results": {"psnr": 20.0, "feature_l1": 0.3, "feature_cosine": 0.9, "ssim": 0.5}}
    training.metrics.write_text(json.dumps(metrics))


def test_the_time_is_that_of_each_step_once_without_the_first_of_a_process(tmp_path: Path) -> None:
    training = Training(OURS, tmp_path / "room", tmp_path, 5, "cpu")
    write_log(training, "stopped", {0: 100.0, 1: 1.0, 2: 2.0, 3: 50.0}, gaussians=700, mb=500)
    write_log(training, "resumed", {3: 4.0, 4: 8.0}, gaussians=900, mb=400)
    assert Log(training.folder).scalars(STEP_TIME) == {0: 100, 1: 1, 2: 2, 3: 4, 4: 8}
    assert Result.of(training) == Result(11.0, 20.0, 0.3, 0.9, 900, 500)


def test_a_log_that_lacks_steps_gives_no_time(tmp_path: Path) -> None:
    training = Training(OURS, tmp_path / "room", tmp_path, 7, "cpu")
    write_log(training, "", {0: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}, gaussians=1, mb=0)
    with pytest.raises(RuntimeError, match="lacks 2 of 7 steps"):
        Result.of(training)


def test_aims_are_five_times_faster_and_as_good_of_whole_trainings_only() -> None:
    met = [row.met for row in rows_of("room", WHOLE, result(), result(50.0, 30.19))]
    assert met == [True, True, True, True]
    met = [row.met for row in rows_of("room", WHOLE, result(l1=0.51, cosine=0.79), result(49.0, 30.21))]
    assert met == [False, False, False, False]
    short = rows_of("room", 300, result(mb=7.0), result(mb=9.0))
    assert [row.met for row in short] == [None] * 5
    assert "300 of 30,000 steps" in short[0].note


@pytest.mark.slow
def test_a_small_room_is_trained_by_both_methods_and_not_twice(
    tiny_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = setting(tiny_capture, tmp_path, "stage1", steps=12)
    rows = measure(asked, TINY_BACKBONE)
    time, psnr, l1, cosine = rows
    assert time.ours > 0
    assert time.reference is not None
    assert time.reference > 0
    assert psnr.ours > 5
    assert l1.ours > 0
    assert -1 <= cosine.ours <= 1
    ran = list[Task]()
    monkeypatch.setattr(stage1, "run", lambda task, _: None if task.makes.exists() else ran.append(task))
    assert measure(asked, TINY_BACKBONE) == rows
    assert not ran
