"""nerfstudio's trainer with checkpoints that survive a kill and resume exactly where they were."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import EXIT_BAD_INPUT
from fit3d_ns.method.feature_solve import solve_model_features
from fit3d_ns.method.optimizers import Fit3DOptimizers
from fit3d_ns.method.pipeline import Fit3DPipeline


@dataclass
class Fit3DTrainerConfig(TrainerConfig):
    """Configuration of `Fit3DTrainer`."""

    _target: type = field(default_factory=lambda: Fit3DTrainer)


class Fit3DTrainer(Trainer):
    """`Trainer` with atomic checkpoints and a resume that keeps the optimisers attached to the Gaussians."""

    pipeline: Fit3DPipeline
    optimizers: Optimizers
    checkpoint_dir: Path

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        try:
            super().setup(test_mode)
        except SystemExit as error:
            if error.code == EXIT_BAD_INPUT:
                self._remove_empty_run()
            raise

    def setup_optimizers(self) -> Optimizers:
        return Fit3DOptimizers(
            self.config.optimizers.copy(), self.pipeline.get_param_groups(), self.config.logging.steps_per_log
        )

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
            with self.train_lock:
                solve_model_features(model, self.pipeline.datamanager)
        super()._after_train()

    def _remove_empty_run(self) -> None:
        """Take back the run folder if ns-train has written no more than config.yml into it."""
        if {path.name for path in self.base_dir.iterdir()} <= {"config.yml"}:
            shutil.rmtree(self.base_dir)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.config.load_dir is None and self.config.load_checkpoint is None:
            return
        # Loading makes new parameters (their number is the checkpoint's), while the optimisers were built
        # on the old ones: rebuild them on the new ones and carry the loaded state over.
        loaded = self.optimizers
        self.optimizers = self.setup_optimizers()
        self.optimizers.load_optimizers({name: o.state_dict() for name, o in loaded.optimizers.items()})
        self.optimizers.load_schedulers({name: s.state_dict() for name, s in loaded.schedulers.items()})

    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint beside the checkpoint folder, then move it in: it is there whole or not at all."""
        target, name = self.checkpoint_dir, f"step-{step:09d}.ckpt"
        # Not inside the folder: nerfstudio reads a step number off every name in there.
        staging = target.parent / ".saving"
        shutil.rmtree(staging, ignore_errors=True)
        self.checkpoint_dir = staging
        try:
            super().save_checkpoint(step)
        finally:
            self.checkpoint_dir = target
        target.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(target / name)
        staging.rmdir()
        if self.config.save_only_latest_checkpoint:
            for path in target.glob("*.ckpt"):
                if path.name != name:
                    path.unlink()
