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
    pairs = _pairs(probing) if {*VIEW_TASKS} & {*probing.tasks} else {}
    train = images_of(probing.train) if probing.trains_on_whole_images else []
    images = Pixels([*train, *images_of(probing.test)])
    encodings = {
        name: measure_encoding(images, config, probing.device, probing.cache_dir)
        for name, config in probing.backbones.items()
    }
    cells = min(encoding.bytes_each / 2 / encoding.channels - 1 for encoding in encodings.values())
    with rehearsal() as folder:
        rehearsed, why = _rehearsals(probing, cells, folder / "cache")
        size = 0
        if rehearsed:
            write(*rehearsed[-1].found, folder / "output")
            size = size_of(folder / "output")
    every = _work(probing, pairs, cells)
    steps = [encoding.step(f" by {name}") for name, encoding in encodings.items()]
    for task in probing.tasks:
        what = f"{task}, {every[task].of}"
        if task in why:
            steps.append(Step(what, None, why[task]))
            continue
        taken = [one.found[0].seconds[STAGES[task]] for one in rehearsed]
        steps.append(Step(what, *extrapolated(every[task], [one.works[task] for one in rehearsed], taken)))
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


@dataclass(frozen=True)
class Rehearsal:
    """A probing of a few images."""

    works: dict[TaskName, Work]
    found: tuple[ProbeResults, list[Example]]


def _rehearsals(probing: Probing, cells: float, cache: Path) -> tuple[list[Rehearsal], dict[TaskName, str]]:
    """Three probings of a few images, and of tasks that these are not fit for why not."""
    few, many = ITERATIONS[probing.protocol.name]
    why: dict[TaskName, str] = {}
    for dropped in ((), ("nearest-neighbours-across",), VIEW_TASKS, probing.tasks):
        tasks = tuple(task for task in probing.tasks if task not in dropped)
        small, most = (replace(_part(probing, count), tasks=tasks, cache_dir=cache) for count in (FEW, MORE))
        if not tasks:
            break
        try:
            done = []
            # The first one also sets up.
            for part, iterations in ((small, few), (small, few), (small, many), (most, few)):
                part = replace(part, protocol=part.protocol.shortened(iterations))
                pairs = _pairs(part) if {*VIEW_TASKS} & {*tasks} else {}
                done.append(Rehearsal(_work(part, pairs, cells), probe(part)))
        except InputError as error:
            # All of it is fit for the tasks, as far as was seen; its first images are not.
            reason = f"rates are measured on the first images, and {error}"
            why = {task: why.get(task, reason) for task in probing.tasks}
            continue
        return done[1:], {task: reason for task, reason in why.items() if task not in tasks}
    return [], why


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
