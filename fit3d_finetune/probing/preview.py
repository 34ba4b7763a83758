"""What a probing would take, found by probings of a few images and iterations, of which nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fit3d_finetune.probing.correspondences import PairSettings, find_pairs
from fit3d_finetune.probing.data.encoding import Pixels
from fit3d_finetune.probing.data.labelled_images import LabelledImages, given_pairs
from fit3d_finetune.probing.data.tasks import VIEW_TASKS, TaskName
from fit3d_finetune.probing.matching import PAIRS as MATCHED_PAIRS
from fit3d_finetune.probing.nearest_neighbours import MEMORY
from fit3d_finetune.probing.plan import Probing, images_of
from fit3d_finetune.probing.results import Example, ProbeResults
from fit3d_finetune.probing.run import check_files, geometry_of, probe
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.estimate import Estimate, Room, Step, peak_memory, rehearsal, size_of
from fit3d_ns.features.backbone import backbone_fingerprint
from fit3d_ns.features.rate import Encoding, measure_encoding

FEW, MORE = 2, 4
"""Images, training and test each, of the rehearsals: their difference is what an image takes."""
ITERATIONS = {"fast": (5, 45), "paper": (1, 2)}
"""Of the rehearsals, by protocol: their difference is what an iteration takes."""
_KEPT_BYTES = 1 << 30
"""Of features that `StandardizedImages` keeps, for each of the tasks that are trained; one is trained at a time."""

STAGES: dict[TaskName, str] = {
    "segmentation": "segmentation",
    "depth": "depth",
    "depth-patches": "depth without class token",
    "normals": "normals",
    "nearest-neighbours": "nearest neighbours",
    "nearest-neighbours-across": "nearest neighbours from other angles",
    "consistency": "consistency",
    "matching": "matching",
}
"""What `ProbeResults.seconds` calls the tasks."""


@dataclass(frozen=True)
class Work:
    """How much a task has to do: it takes `fixed + iterations * a + amount * b` seconds."""

    iterations: int
    amount: float
    unit: str
    """What the amount is of: "24 test images"."""

    @property
    def of(self) -> str:
        """All of it, in words."""
        return f"{self.iterations} iterations, {self.unit}" if self.iterations else self.unit


def preview_probing(
    probing: Probing, output_dir: Path, write: Callable[[ProbeResults, list[Example], Path], None]
) -> Estimate:
    """Look at a probing as its start would, and do a few images and iterations of it.

    Args:
        probing: all of it.
        output_dir: where results would go.
        write: writes them to a folder.

    Raises:
        InputError: as `fit3d_finetune.probing.run.probe`.
    """
    check_files(probing)
    viewed = {*VIEW_TASKS} & {*probing.tasks}
    pairs = _pairs(probing) if viewed else {}
    train = images_of(probing.train) if probing.trains_on_whole_images else []
    images = Pixels([*train, *images_of(probing.test)])
    encodings = {
        name: measure_encoding(images, config, probing.device, probing.cache_dir)
        for name, config in probing.backbones.items()
    }
    cells = min(encoding.bytes_each / 2 / _channels(probing, name) - 1 for name, encoding in encodings.items())
    small, most = _part(probing, FEW), _part(probing, MORE)
    few, many = ITERATIONS[probing.protocol.name]
    unseen = ""
    with rehearsal() as folder:
        small, most = (replace(part, cache_dir=folder / "cache") for part in (small, most))
        counts: list[dict[TaskName, float]] = []
        if viewed:
            try:
                counts = [_pairs(small), _pairs(most)]
            except InputError:
                unseen = f"the first {FEW} test images, on which rates are measured, show nothing in common"
                tasks = tuple(task for task in probing.tasks if task not in viewed)
                small, most = replace(small, tasks=tasks), replace(most, tasks=tasks)
        size = 0
        works, seconds = list[dict[TaskName, Work]](), list[dict[str, float]]()
        if small.tasks:
            # The first one also sets up.
            for part, iterations in ((small, few), (small, few), (small, many), (most, few)):
                part = replace(part, protocol=part.protocol.shortened(iterations))
                results, examples = probe(part)
                seconds.append(results.seconds)
                works.append(_work(part, counts[part is most] if counts else {}, cells))
            write(results, examples, folder / "output")
            size = size_of(folder / "output")
    every = _work(probing, pairs, cells)
    steps = [encoding.step(f" by {name}") for name, encoding in encodings.items()]
    for task in probing.tasks:
        what = f"{task}, {every[task].of}"
        if task in viewed and unseen:
            steps.append(Step(what, None, unseen))
            continue
        taken = [found[STAGES[task]] for found in seconds[1:]]
        steps.append(Step(what, *extrapolated(every[task], [work[task] for work in works[1:]], taken)))
    return Estimate(
        plan=(
            ("Tasks", ", ".join(probing.tasks)),
            ("Images", f"{len(images_of(probing.train))} to train on, {len(images_of(probing.test))} to test on"),
            ("Arms", f"{', '.join(arm.name for arm in probing.arms)}; seeds {', '.join(map(str, probing.seeds))}"),
            ("Protocol", f"{probing.protocol.name}, on {probing.device}"),
            ("Output", f"{output_dir}"),
        ),
        steps=tuple(steps),
        memory=peak_memory(probing.device) + _kept(probing, encodings, len(train)),
        memory_rate=f"measured now on {MORE} images, and features of training images that are kept, up to 1.1 GB",
        rooms=(
            Room("results and report", output_dir, size or None, "as those of the few images, measured now"),
            *(encoding.room(probing.cache_dir, f" by {name}") for name, encoding in encodings.items()),
        ),
        device=probing.device,
    )


def extrapolated(work: Work, measured: Sequence[Work], seconds: Sequence[float]) -> tuple[float, str]:
    """Seconds of a task, and the rates in words.

    Args:
        work: of the task.
        measured: the work of three rehearsals: one, one with more iterations, one with a greater amount.
        seconds: that they took.
    """
    base, longer, larger = measured
    iterations, amount = longer.iterations - base.iterations, larger.amount - base.amount
    a = max(0.0, seconds[1] - seconds[0]) / iterations if iterations else 0.0
    b = max(0.0, seconds[2] - seconds[0]) / amount if amount > 0 else 0.0
    fixed = max(0.0, seconds[0] - base.iterations * a - base.amount * b)
    rates = [f"{1000 * a:.0f} ms an iteration"] if iterations else []
    rates.append(f"{work.amount * b:.1f} s for {work.unit}")
    return fixed + work.iterations * a + work.amount * b, f"{', '.join(rates)}, measured now on {MORE} images"


def _channels(probing: Probing, backbone: str) -> int:
    return int(backbone_fingerprint(probing.backbones[backbone])["embed_dim"])


def _part(probing: Probing, count: int) -> Probing:
    """The probing of the first images of the first training and of the first test data."""
    return replace(probing, train=[_first(probing.train[0], count)], test=[_first(probing.test[0], count)])


def _first(data: LabelledImages, count: int) -> LabelledImages:
    pairs = data.pairs and tuple(pair for pair in data.pairs if max(pair) < count)
    return replace(data, images=data.images[:count], pairs=pairs)


def _pairs(probing: Probing) -> dict[TaskName, float]:
    """How many pairs of views the tasks compare."""
    views, among = geometry_of(probing), given_pairs(probing.test)
    found: dict[TaskName, float] = {}
    if "consistency" in probing.tasks:
        found["consistency"] = len(find_pairs(views, PairSettings(among=among)))
    if "matching" in probing.tasks:
        found["matching"] = len(find_pairs(views, replace(MATCHED_PAIRS, among=among)))
    if "nearest-neighbours-across" in probing.tasks:
        scenes = [view.scene for view in views]
        found["nearest-neighbours-across"] = sum(scenes.count(scene) ** 2 for scene in dict.fromkeys(scenes))
    return found


def _work(probing: Probing, pairs: dict[TaskName, float], cells: float) -> dict[TaskName, Work]:
    train, test = len(images_of(probing.train)), len(images_of(probing.test))
    protocol = probing.protocol
    found: dict[TaskName, Work] = {}
    for task in probing.tasks:
        if task == "segmentation":
            iterations = protocol.segmentation_iterations
            found[task] = Work(iterations, test, f"{test} test images")
        elif task in ("depth", "depth-patches"):
            iterations = protocol.depth_iterations
            found[task] = Work(iterations, test, f"{test} test images")
        elif task == "normals":
            found[task] = Work(0, train + test, f"{train} training and {test} test images")
        elif task == "nearest-neighbours":
            memory = min(MEMORY, train * cells)
            found[task] = Work(0, test * memory, f"{test} test images, {memory:.0f} patches to compare with")
        else:
            found[task] = Work(0, pairs[task], f"{pairs[task]:.0f} pairs of views")
    return found


def _kept(probing: Probing, encodings: dict[str, Encoding], train: int) -> float:
    """Bytes of training images' features, float32, that stay in memory beyond those of the rehearsals."""
    each = sum(2 * encoding.bytes_each for encoding in encodings.values())
    return max(0.0, min(_KEPT_BYTES, train * each) - min(train, MORE) * each)
