"""What can be measured and what data it takes; no torch, so that `--help` is there at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

DepthBenchmarkName = Literal["none", "scannet", "nyu", "kitti"]
"""Of `fit3d_finetune.probing.data.depth_benchmarks`."""

TaskName = Literal[
    "segmentation",
    "depth",
    "depth-patches",
    "normals",
    "nearest-neighbours",
    "nearest-neighbours-across",
    "consistency",
    "matching",
]
TASKS: tuple[TaskName, ...] = get_args(TaskName)


class Files(Protocol):
    """What a data set says of its files (`fit3d_finetune.probing.data.labelled_images.LabelledImages`)."""

    @property
    def has_labels(self) -> bool: ...
    @property
    def has_depth(self) -> bool: ...
    @property
    def has_geometry(self) -> bool: ...


@dataclass(frozen=True)
class Task:
    """What a task asks for."""

    labels: bool = False
    depth: bool = False
    cameras: bool = False
    """Without distortion, of images with depth."""
    trains: bool = True
    """Whether something is fitted to, or looked up in, training data."""
    default: bool = True
    """Whether it is measured where no tasks are named."""

    def met_by(self, data: Files) -> bool:
        """Whether a data set has the files."""
        return (
            (data.has_labels or not self.labels)
            and (data.has_depth or not self.depth)
            and (data.has_geometry or not self.cameras)
        )

    @property
    def words(self) -> str:
        """What data it needs."""
        shape = "depth and undistorted cameras" if self.cameras else "depth" if self.depth else ""
        return ", ".join(part for part in ("labels" if self.labels else "", shape) if part)


NEEDS: dict[TaskName, Task] = {
    "segmentation": Task(labels=True),
    "depth": Task(depth=True),
    # Depth from patch tokens alone says where depth stands in the features, beside what the class token adds to it.
    "depth-patches": Task(depth=True, default=False),
    "normals": Task(depth=True, cameras=True),
    "nearest-neighbours": Task(labels=True),
    "nearest-neighbours-across": Task(labels=True, cameras=True, trains=False, default=False),
    "consistency": Task(cameras=True, trains=False),
    "matching": Task(cameras=True, trains=False),
}
DEFAULT_TASKS: tuple[TaskName, ...] = tuple(task for task in TASKS if NEEDS[task].default)
VIEW_TASKS: tuple[TaskName, ...] = tuple(task for task in TASKS if not NEEDS[task].trains)
"""Those that compare views of a scene and need no training data."""
