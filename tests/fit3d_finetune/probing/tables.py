"""Made-up tables of comparisons whose truth is known: no difference, differences of scenes or frames, a real gain."""

from __future__ import annotations

import numpy as np

from fit3d_finetune.probing.counts import ClassCounts
from fit3d_finetune.probing.results import Arm, ConsistencyResult, DepthResult, ProbeResults, SegmentationResult

FRAMES, SEEDS, K = 16, 3, 2
PIXELS = 100_000
ARMS = [Arm(name, (name,)) for name in ("original", "one", "two")]


def table(
    random: np.random.Generator,
    rooms: int,
    gain: float = 0.0,
    of_rooms: float = 0.0,
    of_frames: float = 0.0,
    of_seeds: float = 0.0,
    names: str = "room",
) -> ProbeResults:
    """Three arms, of which the last two are better by `gain`, and else differ from the first one by chance alone.

    Args:
        random: what that chance is drawn from.
        rooms: how many test scenes.
        gain: added in every room.
        of_rooms: standard deviation of what a whole room has in common.
        of_frames: of what follows a trajectory, with a correlation of 0.8 from one frame to the next.
        of_seeds: of what a probe seed does to all rooms alike.
        names: what scenes are called.
    """
    images = rooms * FRAMES
    parts: dict[str, dict[str, np.ndarray]] = {task: {} for task in ("segmentation", "depth", "consistency")}
    for task in parts:
        base = 0.5 + 0.05 * random.normal(size=(rooms, 1)) + 0.05 * along_a_trajectory(random, rooms)
        for arm in ARMS:
            change = np.zeros((SEEDS, rooms, FRAMES))
            if arm is not ARMS[0]:
                change += (
                    gain + of_rooms * random.normal(size=(rooms, 1)) + of_frames * along_a_trajectory(random, rooms)
                )
                if task != "consistency":  # nothing is trained there
                    change += of_seeds * random.normal(size=(SEEDS, 1, 1))
            parts[task][arm.name] = (base + change).reshape(SEEDS, images).clip(0.01, 1)
    scenes = np.arange(rooms).repeat(FRAMES)
    return ProbeResults(
        protocol="fast",
        seeds=list(range(SEEDS)),
        arms=ARMS,
        backbones={},
        train_data=[],
        test_data=[],
        test_images=[f"{names}_{scene}/{index}" for index, scene in enumerate(scenes)],
        scenes=[f"{names}_{scene}" for scene in range(rooms)],
        image_scenes=scenes.tolist(),
        classes=[*"ab"],
        counted_classes=[0, 1],
        labelled_pixels=np.full((images, K), PIXELS // 2),
        segmentation={arm: _segmentation(values) for arm, values in parts["segmentation"].items()},
        depth={arm: _depth(values) for arm, values in parts["depth"].items()},
        consistency={arm: _consistency(values[0], scenes) for arm, values in parts["consistency"].items()},
    )


def along_a_trajectory(random: np.random.Generator, rooms: int, correlation: float = 0.8) -> np.ndarray:
    """Standard normal [rooms, frames], each frame correlated with the one before."""
    values = random.normal(size=(rooms, FRAMES))
    for frame in range(1, FRAMES):
        values[:, frame] *= (1 - correlation**2) ** 0.5
        values[:, frame] += correlation * values[:, frame - 1]
    return values


def _segmentation(ious: np.ndarray) -> SegmentationResult:
    unions = np.full((*ious.shape, K), PIXELS)
    counts = ClassCounts((ious[..., None] * unions).astype(np.int64), unions)
    mean = ious.mean(axis=1).tolist()
    return SegmentationResult(mean, mean, mean, mean, [[0.5] * K] * SEEDS, counts)


def _depth(rmse: np.ndarray) -> DepthResult:
    mean = rmse.mean(axis=1).tolist()
    return DepthResult(*[mean] * 6, squared_error=(rmse**2).tolist(), pixels=[1] * rmse.shape[1])


def _consistency(recall: np.ndarray, scenes: np.ndarray) -> ConsistencyResult:
    mean, count = float(recall.mean()), len(recall)
    return ConsistencyResult([30.0, 60.0], [mean], [mean], [count], 2.0, scenes.tolist(), [0] * count, recall.tolist())
