"""nerfstudio's trainer with checkpoints that survive a kill and resume exactly where they were."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.decorators import check_main_thread
from torch import Tensor

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import EXIT_BAD_INPUT
from fit3d_ns.common.randomness import RandomStream
from fit3d_ns.common.temporaries import sweep_leftovers, temporaries
from fit3d_ns.common.third_parties import quiet_third_parties
from fit3d_ns.lifting.maps import LiftedFeatures
from fit3d_ns.method.feature_solve import solved_features, training_views
from fit3d_ns.method.optimizers import Fit3DOptimizers, in_units_of
from fit3d_ns.method.pipeline import Fit3DPipeline

OWN_STATE = "fit3d"
"""Entry of a checkpoint that nerfstudio does not know and does not read."""


@dataclass
class Fit3DTrainerConfig(TrainerConfig):
    """Configuration of `Fit3DTrainer`."""

    _target: type = field(default_factory=lambda: Fit3DTrainer)


class Fit3DTrainer(Trainer):
    """`Trainer` with atomic checkpoints and a resume that keeps the optimisers attached to the Gaussians."""

    pipeline: Fit3DPipeline
    optimizers: Optimizers
    checkpoint_dir: Path
    random_stream: RandomStream
    """What the training draws from, whatever else draws random numbers in this process."""
    _resumed_state: dict[str, Any] | None = None

    def __init__(self, config: TrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        quiet_third_parties()
        super().__init__(config, local_rank, world_size)

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        # Whether features come from the cache, a viewer draws or a run was interrupted must not change the scene.
        self.random_stream = RandomStream(self.config.machine.seed)
        try:
            with self.random_stream:
                super().setup(test_mode)
        except SystemExit as error:
            if error.code == EXIT_BAD_INPUT:
                self._remove_empty_run()
            raise
        if self._resumed_state is not None:
            self._load_own_state(self._resumed_state)
        for callback in self.callbacks:
            callback.func = self._in_stream(callback.func)

    def _in_stream(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.random_stream:
                return function(*args, **kwargs)

        return call

    def train_iteration(self, step: int) -> Any:
        with self.random_stream:
            return super().train_iteration(step)

    def eval_iteration(self, step: int) -> None:
        with self.pipeline.model.feature_viewer.everything_shown():
            super().eval_iteration(step)

    def setup_optimizers(self) -> Optimizers:
        optimizers = dict(self.config.optimizers)
        optimizers["means"] = in_units_of(self.pipeline.model.extent, optimizers["means"])
        return Fit3DOptimizers(optimizers, self.pipeline.get_param_groups(), self.config.logging.steps_per_log)

    def train(self) -> None:
        threads = torch.get_num_threads()
        if self.device == "cpu":
            # The rasteriser and SSIM bring their own threads. What is left to torch are small operations, whose
            # OpenMP threads spin between them and take the cores from the kernels: one thread is faster.
            logger.debug("torch trains with 1 thread beside the kernels' (%d before)", threads)
            torch.set_num_threads(1)
        try:
            super().train()
        finally:
            torch.set_num_threads(threads)

    def _after_train(self) -> None:
        # Whatever ended the training, its last step or the viewer's button, and before the last checkpoint.
        model = self.pipeline.model
        if model.config.feature_lift == "solve":
            # No step is under way any more: pages may look on, and press buttons, while the features are solved for.
            lifted = self._solved_features()
            with self.train_lock:
                model.set_features(lifted)
            model.feature_viewer.control.rerender()
        if self.config.viewer.quit_on_train_completion:
            model.feature_viewer.finish_export()
        super()._after_train()

    def _solved_features(self) -> LiftedFeatures:
        model, datamanager = self.pipeline.model, self.pipeline.datamanager
        views = training_views(datamanager, model.camera_optimizer, model.device)
        basis, maps, config = datamanager.feature_basis, datamanager.train_features, model.config
        splats, dependence = model.splats().detached(), config.feature_view_dependence
        return solved_features(splats, views, maps, config.feature_dim, basis, dependence)

    def _remove_empty_run(self) -> None:
        """Take back the run folder if ns-train has written no more than config.yml into it."""
        if {path.name for path in self.base_dir.iterdir()} <= {"config.yml"}:
            (self.base_dir / "config.yml").unlink(missing_ok=True)
            self.base_dir.rmdir()

    def _load_checkpoint(self) -> None:
        sweep_leftovers(self.base_dir)
        if self.config.load_dir is not None:
            sweep_leftovers(self.config.load_dir.parent)
        super()._load_checkpoint()
        path = self._checkpoint_to_resume()
        if path is None:
            return
        # mmap: what nerfstudio has just read is not read again. Checkpoints of release 0.1 have no such entry.
        self._resumed_state = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get(OWN_STATE)
        if self._resumed_state is None:
            logger.warning(
                "%s holds no random state (release 0.1 wrote it): the run goes on, but not as an uninterrupted one.",
                path,
            )
        # Loading makes new parameters (their number is the checkpoint's), while the optimisers were built
        # on the old ones: rebuild them on the new ones and carry the loaded state over.
        loaded = self.optimizers
        self.optimizers = self.setup_optimizers()
        self.optimizers.load_optimizers({name: o.state_dict() for name, o in loaded.optimizers.items()})
        self.optimizers.load_schedulers({name: s.state_dict() for name, s in loaded.schedulers.items()})

    def _checkpoint_to_resume(self) -> Path | None:
        """The file that nerfstudio resumes from, if any."""
        if self.config.load_dir is None:
            return self.config.load_checkpoint
        return self.config.load_dir / f"step-{self._start_step - 1:09d}.ckpt"

    def _own_state(self) -> dict[str, Any]:
        """What an exact resume needs beside nerfstudio's entries: tensors, lists and numbers."""
        return {
            "random_stream": self.random_stream.state_dict(),
            "train_order": self.pipeline.datamanager.train_order_state(),
            # The sums of gradients since the last densification.
            "densification": dict(self.pipeline.model.strategy_state),
        }

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self.random_stream.load_state_dict(state["random_stream"])
        self.pipeline.datamanager.load_train_order(state["train_order"])
        model = self.pipeline.model
        # Only what this run's strategy keeps: it may be another one than the checkpoint's.
        for name in model.strategy_state.keys() & state["densification"].keys():
            value = state["densification"][name]
            model.strategy_state[name] = value.to(model.device, copy=True) if isinstance(value, Tensor) else value

    def _write_checkpoint(self, path: Path, step: int) -> None:
        """nerfstudio's checkpoint with our own state as one more entry."""
        state = {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: each.state_dict() for name, each in self.optimizers.optimizers.items()},
            "schedulers": {name: each.state_dict() for name, each in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            OWN_STATE: self._own_state(),
        }
        torch.save(state, path)

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint beside the checkpoint folder, then move it in: it is there whole or not at all."""
        target, name = self.checkpoint_dir, f"step-{step:09d}.ckpt"
        # Not inside the folder: nerfstudio reads a step number off every name in there.
        with temporaries(target.parent / name) as names:
            self._write_checkpoint(names.new, step)
            target.mkdir(parents=True, exist_ok=True)
            names.new.replace(target / name)
        if self.config.save_only_latest_checkpoint:
            for path in target.glob("step-*.ckpt"):
                if path.name != name and path.stem.removeprefix("step-").isdecimal():
                    path.unlink()
