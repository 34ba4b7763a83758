"""Several probing runs as one table over all their scenes: the folds of a cross-validation.

    results = [ProbeResults.load(folder / "results.json") for folder in folders]  # fold by fold
    comparisons = pool(results)
    for comparison in comparisons:
        print(comparison.statement)
    rows = scene_table(comparisons)  # a header, then one row per scene and comparison

Runs with the same test scenes are one fold with several seeds of fine-tuning: a scene's figure is their mean, and the
variance between them goes into the tests of all folds (see `significance`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from fit3d_finetune.probing.comparison import Comparison, Task
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.probing.significance import Fold, compare_arms
from fit3d_ns.common.errors import InputError

_SAME: dict[str, Callable[[ProbeResults], object]] = {
    "arms": lambda run: run.arms,
    "seeds": lambda run: run.seeds,
    "classes": lambda run: run.classes,
    "tasks": lambda run: [bool(getattr(run, task)) for task in get_args(Task)],
    "protocol": lambda run: run.protocol,
}
"""What runs have in common by which they can be pooled."""


def folds_of(results: Sequence[ProbeResults]) -> list[Fold]:
    """The runs by their test scenes, in the order in which these come first.

    Raises:
        InputError: runs that cannot be pooled: other arms, seeds, tasks, classes or protocol, or test scenes that are
            partly the same.
    """
    if not results:
        raise InputError("there is no probing run to pool: give the results.json of at least one.")
    folds: dict[frozenset[str], list[ProbeResults]] = {}
    for run in results:
        for what, of in _SAME.items():
            if of(run) != of(results[0]):
                raise InputError(
                    f"the run tested on {', '.join(run.scenes)} has other {what} than the one tested on "
                    f"{', '.join(results[0].scenes)}: pool runs that differ in their scenes only."
                )
        scenes = frozenset(run.scenes)
        for known in folds:
            if known != scenes and known & scenes:
                raise InputError(
                    f"{', '.join(sorted(known & scenes))} is tested on in two folds: every scene may be in one only."
                )
        fold = folds.setdefault(scenes, [])
        if fold and (fold[0].scenes, fold[0].test_images) != (run.scenes, run.test_images):
            raise InputError(
                f"two runs tested on {', '.join(run.scenes)} differ in their images or their order: probe them alike."
            )
        fold.append(run)
    return list(folds.values())


def pool(results: Sequence[ProbeResults], pairs: Sequence[tuple[str, str]] | None = None) -> list[Comparison]:
    """One table over the scenes of all runs, with Holm's correction over it.

    Args:
        results: runs with the same arms, seeds, classes and tasks whose test scenes are disjoint, or the same for
            further seeds of fine-tuning. The mIoU of a scene is over the classes that its own run counts.
        pairs: (arm, baseline) to compare; every arm against the first one unless given.

    Raises:
        InputError: see `folds_of`; or a pair names an arm that there is not.
    """
    folds = folds_of(results)
    names = [arm.name for arm in results[0].arms]
    for name in [name for pair in pairs or () for name in pair]:
        if name not in names:
            raise InputError(f"there is no arm “{name}” to compare; there are {', '.join(names)}.")
    return compare_arms(folds, pairs)
