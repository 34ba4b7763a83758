"""What a probing run is to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fit3d_finetune.probing.data.depth_benchmarks import DEPTH_BENCHMARKS, DepthBenchmark
from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages
from fit3d_finetune.probing.data.tasks import NEEDS, Task, TaskName
from fit3d_finetune.probing.protocol import Protocol
from fit3d_finetune.probing.results import Arm
from fit3d_ns.features.backbone import BackboneConfig


@dataclass(frozen=True)
class Probing:
    """What to probe, on what, and how."""

    backbones: dict[str, BackboneConfig]
    arms: list[Arm]
    train: list[LabelledImages]
    test: list[LabelledImages]
    tasks: tuple[TaskName, ...]
    protocol: Protocol
    seeds: tuple[int, ...]
    device: str = "cpu"
    max_depth: float = 10.0
    benchmark: DepthBenchmark = DEPTH_BENCHMARKS["none"]
    cache_dir: Path | None = None
    """Of features; None: $FIT3D_CACHE_DIR, else ~/.cache/fit3d."""

    def asks_for(self, need: Callable[[Task], bool]) -> bool:
        """Whether a task needs it."""
        return any(need(NEEDS[task]) for task in self.tasks)

    @property
    def trains_on_whole_images(self) -> bool:
        """Whether a task needs the cached features of training images."""
        crops: set[TaskName] = {"segmentation", "depth"} if self.protocol.name == "paper" else set()
        return any(NEEDS[task].trains for task in {*self.tasks} - crops)


def default_arms(backbones: Sequence[str]) -> list[Arm]:
    """Each backbone alone, and the original together with each one.

    With itself too: what a wider head gains where nothing new is added.
    """
    return [
        *(Arm(name, (name,)) for name in backbones),
        *(Arm(f"original + {name}", ("original", name)) for name in backbones),
    ]


def images_of(data: Sequence[LabelledImages]) -> list[LabelledImage]:
    """All images, data set by data set."""
    return [image for part in data for image in part.images]
