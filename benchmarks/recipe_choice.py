"""Try a recipe inside a fold of the rooms, with several shares of its weights, and choose among those that were tried.

    python -m benchmarks.recipe_choice --recipe NAME --full FOLDER --export runs/room_02 --train-data ROOM…
        --validation-data ROOM… --work-dir FOLDER --output trial.json

One training with all of the weights, on rooms of the fold's training half, gives every share of them. Probes are
trained on the labels of the same rooms and tested on the validation rooms, which no table of the fold is tested on.
What decides: the relative gain of mIoU plus the relative falls of the RMSE of depth and of normals against the
original, mean of the fine-tuned features alone and with the original's. All figures are kept beside a trial, for
`benchmarks.recipes`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.mixing import mixed
from benchmarks.named_recipes import MAIN, RECIPES
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.backbone.precision import choose_precision
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.labelled_images import LabelledImages
from fit3d_finetune.probing.data.tasks import TaskName
from fit3d_finetune.probing.plan import Probing, default_arms
from fit3d_finetune.probing.protocol import FAST
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.probing.run import probe
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.scene.gaussians import FeatureGaussians

CANDIDATES = (MAIN,)
"""The recipes that a fold chooses from."""
SHARES = (0.7, 1.0)
"""Half of the weights was never chosen by a fold since depth and normals are taught."""
TASKS: tuple[TaskName, ...] = ("segmentation", "depth", "normals", "consistency")
EVERY = 2
"""Every second image is enough to choose by."""
SEEDS = (0, 1)
ORIGINAL = "original"


def gain(results: ProbeResults, name: str) -> float:
    """Relative gain of mIoU plus relative falls of both RMSE, of depth and normals; mean of alone and together."""
    figures = {arm.name: arm_figures(results, arm.name) for arm in results.arms}
    before = figures[ORIGINAL]
    changes = [
        {figure: value / before[figure] - 1 for figure, value in figures[arm].items()}
        for arm in (name, f"{ORIGINAL} + {name}")
    ]
    return mean(change["miou"] - change["rmse"] - change["angle"] for change in changes)


def arm_figures(results: ProbeResults, arm: str) -> dict[str, float]:
    """What decides, of one arm."""
    return {
        "miou": mean(results.segmentation[arm].miou),
        "rmse": mean(results.depth[arm].rmse),
        "angle": mean(results.normals[arm].rmse),
    }


def thinned(data: Sequence[LabelledImages]) -> list[LabelledImages]:
    """Every second image of each."""
    return [dataclasses.replace(part, images=part.images[::EVERY]) for part in data]


def candidate_name(recipe: str, share: float) -> str:
    """A share of a recipe's weights, as tables call it."""
    return f"{recipe}: {100 * share:g} %"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A recipe to choose from, and the folder that holds what it gives."""

    recipe: str
    share: float
    folder: Path

    @property
    def name(self) -> str:
        return candidate_name(self.recipe, self.share)


def make_candidates(recipe: str, full: Path, export: Path, work: Path) -> list[Candidate]:
    """Every share of a training's weights.

    Args:
        recipe: its name.
        full: the folder of fit3d-finetune --weight-mix 1.
        export: any that it was trained on.
        work: for the folders of other shares.
    """
    backbone = FeatureGaussians.load(export).scene.backbone
    return [Candidate(recipe, share, mixed(full, share, work / f"{full.name}-{share:g}", backbone)) for share in SHARES]


def probe_candidates(candidates: Sequence[Candidate], train: Sequence[str], validation: Sequence[str]) -> ProbeResults:
    """Probes of all candidates, alone and with the original, on every second image, in the arithmetic of training."""
    backbones = {ORIGINAL: read_finetuned(candidates[0].folder).original}
    backbones |= {each.name: read_finetuned(each.folder).finetuned for each in candidates}
    precision = choose_precision("auto", "cpu")
    data = read_data([*train, *validation])
    results, _ = probe(
        Probing(
            backbones={name: dataclasses.replace(config, precision=precision) for name, config in backbones.items()},
            arms=default_arms(list(backbones)),
            train=thinned(data[: len(train)]),
            test=thinned(data[len(train) :]),
            tasks=TASKS,
            protocol=FAST,
            seeds=SEEDS,
        )
    )
    return results


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a recipe gave on validation rooms."""

    recipe: str
    gains: dict[float, float]
    """By share of its weights."""
    validation: list[str]
    """Names of the rooms."""

    @staticmethod
    def of(candidates: Sequence[Candidate], results: ProbeResults) -> Trial:
        """The trial of the candidates of one recipe."""
        gains = {each.share: gain(results, each.name) for each in candidates}
        return Trial(candidates[0].recipe, gains, results.scenes)

    def save(self, path: Path) -> None:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> Trial:
        found = json.loads(path.read_text())
        return Trial(found["recipe"], {float(key): gain for key, gain in found["gains"].items()}, found["validation"])


def all_gains(trials: Sequence[Trial]) -> dict[tuple[str, float], float]:
    """By recipe and share of its weights."""
    return {(trial.recipe, share): value for trial in trials for share, value in trial.gains.items()}


def choose(trials: Sequence[Trial]) -> tuple[str, float]:
    """The recipe and the share of its weights that gained most."""
    gains = all_gains(trials)
    return max(gains, key=gains.__getitem__)


def chosen_options(trials: Sequence[Path]) -> tuple[str, ...]:
    """What is chosen among trials, as options of fit3d-finetune."""
    recipe, share = choose([Trial.load(path) for path in trials])
    return *RECIPES[recipe], "--weight-mix", str(share)


def results_beside(trial: Path) -> Path:
    """Where the probes' figures lie."""
    return trial.with_suffix(".results.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help="its name (benchmarks.named_recipes, benchmarks.rounds)")
    parser.add_argument("--full", type=Path, required=True, help="folder of fit3d-finetune --weight-mix 1")
    parser.add_argument("--export", type=Path, required=True, help="any export that it was trained on")
    parser.add_argument("--train-data", nargs="+", required=True)
    parser.add_argument("--validation-data", nargs="+", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    candidates = make_candidates(arguments.recipe, arguments.full, arguments.export, arguments.work_dir)
    results = probe_candidates(candidates, arguments.train_data, arguments.validation_data)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    results.save(results_beside(arguments.output))
    trial = Trial.of(candidates, results)
    trial.save(arguments.output)
    print(trial)


if __name__ == "__main__":
    main()
