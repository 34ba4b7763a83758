"""The viewer's threads beside the training: they render, and press buttons, while steps run."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace
from torch import Tensor

from benchmarks.soak import Result, Run, soak
from benchmarks.soak import make_config as make_soak_config
from fit3d_ns.method.trainer import Fit3DTrainer
from tests.fit3d_ns.method.runs import make_config, make_trainer

Pictures = dict[str, Tensor]
SHOWN = ("rgb", "depth", "accumulation", "feature_pca", "feature_error")


@pytest.fixture
def trainer(tiny_capture: Path, tmp_path: Path) -> Fit3DTrainer:
    return make_trainer(make_config(tiny_capture, tmp_path, steps=60))


@pytest.fixture
def trainer_with_viewer(tiny_capture: Path, tmp_path: Path) -> Iterator[Fit3DTrainer]:
    def serve(config: object) -> None:
        config.vis = "viewer+tensorboard"  # type: ignore[attr-defined]

    trainer = make_trainer(make_config(tiny_capture, tmp_path, steps=60, change=serve))
    yield trainer
    trainer.shutdown()


def _camera(trainer: Fit3DTrainer) -> Cameras:
    camera = copy.deepcopy(trainer.pipeline.datamanager.train_cameras[3:4])
    camera.metadata = None
    return camera


def _look(trainer: Fit3DTrainer) -> Pictures:
    """Render as nerfstudio's viewer does; the caller holds the train lock."""
    model = trainer.pipeline.model
    was_training = model.training
    model.eval()
    try:
        outputs = model.get_outputs_for_camera(_camera(trainer))
    finally:
        model.train(was_training)
    return {name: outputs[name].clone() for name in SHOWN}


def _train_beside(trainer: Fit3DTrainer, work: Callable[[], None], timeout: float = 120) -> None:
    """Repeat `work` in one thread while another trains to the end."""
    failures: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            failures.append(error)

    def repeat() -> None:
        while training.is_alive():
            work()

    training = threading.Thread(target=guarded, args=(trainer.train,), daemon=True)
    working = threading.Thread(target=guarded, args=(repeat,), daemon=True)
    training.start()
    working.start()
    for thread in (training, working):
        thread.join(timeout)
    assert failures == []
    assert not training.is_alive(), "the training hangs"
    assert not working.is_alive(), "the other thread hangs"


def test_pictures_taken_during_training_equal_those_rendered_alone(trainer: Fit3DTrainer) -> None:
    taken: list[tuple[int, dict[str, Tensor], Pictures]] = []
    model = trainer.pipeline.model

    def look() -> None:
        with trainer.train_lock:
            state = {name: values.clone() for name, values in model.state_dict().items()}
            taken.append((model.step, state, _look(trainer)))

    _train_beside(trainer, look)
    steps = sorted({step for step, _, _ in taken})
    assert len(steps) >= 5, "too few pictures were taken between the steps to say anything"
    for step, state, pictures in taken[:: max(1, len(taken) // 20)]:
        model.load_state_dict(state)
        model.step = step
        for name, alone in _look(trainer).items():
            assert torch.equal(pictures[name], alone), f"{name} at step {step}"


def test_watching_does_not_change_what_is_learned(tiny_capture: Path, tmp_path: Path) -> None:
    def make(name: str) -> Fit3DTrainer:
        return make_trainer(make_config(tiny_capture, tmp_path / name, steps=25))

    alone = make("alone")
    alone.train()
    watched = make("watched")

    def look() -> None:
        with watched.train_lock:
            _look(watched)

    _train_beside(watched, look)
    expected, got = alone.pipeline.model.state_dict(), watched.pipeline.model.state_dict()
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_renderings_that_are_interrupted_anywhere_leave_nothing_locked_or_wrong(trainer: Fit3DTrainer) -> None:
    # nerfstudio's viewer stops a rendering when the camera moves, by an exception at any line of Python code.
    expected = _look(trainer)
    lines = random.Random(0)
    interrupted = 0

    def interrupt_after(count: int) -> Callable[..., object]:
        left = count

        def trace(frame: object, event: str, argument: object) -> Callable[..., object]:
            nonlocal left
            left -= event == "line"
            if left == 0:
                raise IOChangeException
            return trace

        return trace

    def interrupt() -> None:
        nonlocal interrupted
        for _ in range(60):
            with suppress(IOChangeException), SetTrace(interrupt_after(lines.randrange(1, 2000))):
                interrupted += 1
                _look(trainer)
                interrupted -= 1

    # On a thread of its own, as the viewer does: where torch.no_grad is interrupted itself, gradients stay off there.
    rendering = threading.Thread(target=interrupt, daemon=True)
    rendering.start()
    rendering.join(120)
    assert interrupted > 20
    seen: list[Pictures] = []
    thread = threading.Thread(target=lambda: seen.append(_look(trainer)), daemon=True)
    thread.start()
    thread.join(60)
    assert seen, "a rendering in another thread waits for ever"
    assert [name for name in SHOWN if not torch.equal(seen[0][name], expected[name])] == []


def test_buttons_work_while_training(trainer_with_viewer: Fit3DTrainer) -> None:
    # As nerfstudio installs them: their hooks run while it holds the train lock.
    viewer = trainer_with_viewer.viewer_state
    assert viewer is not None
    elements = [element for _, element in viewer.viewer_elements]
    names = {element.name for element in elements}
    assert names >= {"Refit colours", "Similarity: pick a point", "Similarity: clear"}

    def press_all() -> None:
        for element in elements:
            element.cb_hook(element)

    _train_beside(trainer_with_viewer, press_all)
    model = trainer_with_viewer.pipeline.model
    model.feature_viewer.pick(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
    assert "similarity" in model.eval().get_outputs_for_camera(_camera(trainer_with_viewer))


def test_buttons_and_pictures_are_answered_while_features_are_solved_for(
    tiny_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_config(tiny_capture, tmp_path, steps=5, feature_lift="solve"))
    solving, answered = threading.Event(), threading.Event()
    solve = trainer._solved_features

    def slow_solve() -> object:
        solving.set()
        assert answered.wait(60), "nobody is answered until the solve is done"
        return solve()

    monkeypatch.setattr(trainer, "_solved_features", slow_solve)

    def look() -> None:
        if solving.wait(0.1) and not answered.is_set():
            with trainer.train_lock:
                _look(trainer)
                trainer.pipeline.model.feature_viewer.refit()
            answered.set()

    _train_beside(trainer, look)
    assert answered.is_set()
    assert bool(trainer.pipeline.model.gauss_params["features"].any())


def test_a_file_that_is_being_written_when_training_ends_is_finished(
    tiny_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_config(tiny_capture, tmp_path, steps=2))
    viewer, written = trainer.pipeline.model.feature_viewer, tmp_path / "selection-001.ply"
    monkeypatch.setattr(type(viewer.control), "run_folder", tmp_path)
    export = viewer.export

    def slow_export(*arguments: object) -> Path:
        time.sleep(1)
        return export(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(viewer, "export", slow_export)
    save = trainer.save_checkpoint

    def save_and_look(step: int) -> None:
        assert written.is_file(), "the process may end after this"
        save(step)

    monkeypatch.setattr(trainer, "save_checkpoint", save_and_look)
    viewer.start_export()
    trainer.train()
    assert written.is_file()


def _soak(capture: Path, folder: Path, seconds: float) -> Result:
    config = make_soak_config(capture, folder)
    trainer = make_trainer(config)
    run = Run(trainer)
    run.start()
    try:
        return soak(run, seconds, turns=0)
    finally:
        run.stop()


def test_clients_that_do_everything_and_vanish_leave_the_training_going(tiny_capture: Path, tmp_path: Path) -> None:
    result = _soak(tiny_capture, tmp_path, 10)
    assert [each for each in result.failures() if not each.startswith("memory")] == []
    assert result.log["answers"], "no client did anything"


@pytest.mark.slow
def test_a_minute_of_clients_takes_no_more_memory_at_its_end(tiny_capture: Path, tmp_path: Path) -> None:
    result = _soak(tiny_capture, tmp_path, 90)
    assert result.failures() == []
    assert result.log["vanished"] >= 3
