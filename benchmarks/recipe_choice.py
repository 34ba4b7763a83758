"""Choose the recipe and the share of fine-tuned weights, by rooms that no table of the fold is tested on.

    python -m benchmarks.recipe_choice --full RECIPE=FOLDER… --export runs/room_02 --train-data ROOM…
        --validation-data ROOM… --work-dir FOLDER --output choice.json

One training per recipe with all of the weights, on rooms of the fold's training half; the candidates are shares of
their weights. Probes are trained on the labels of the same rooms and tested on the validation rooms. What decides: the
relative gain of mIoU plus the relative falls of the RMSE of depth and of normals against the original, mean of the
fine-tuned features alone and with the original's. All figures are kept beside the choice, for `benchmarks.recipes`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.mixing import mixed
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.backbone.precision import choose_precision
from fit3d_finetune.probing.data.checks import TaskName
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.labelled_images import LabelledImages
from fit3d_finetune.probing.plan import Probing, default_arms
from fit3d_finetune.probing.protocol import FAST
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.probing.run import probe
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.scene.gaussians import FeatureGaussians


def _weights(depth: float, normals: float, class_token: float) -> tuple[str, ...]:
    return (
        *("--depth-weight", str(depth), "--normal-weight", str(normals)),
        *("--class-token-weight", str(class_token)),
    )


MIRROR = ("--targets", "mirror")
GRAM = ("--gram-weight", "2")
"""As in DINOv3."""
MARGIN = ("--anchor-weight", "1", "--anchor-margin", "0.85")
RECIPES: dict[str, tuple[str, ...]] = {
    "features": _weights(0, 0, 0),
    "class token": _weights(0, 0, 1),
    "depth": _weights(1, 0, 0),
    "depth, class token": _weights(1, 0, 1),
    "depth, normals": _weights(1, 1, 0),
    "depth, normals, class token": _weights(1, 1, 1),
    "all of them twice": _weights(2, 2, 2),
    "depth, normals, class token, gram": (*_weights(1, 1, 1), *GRAM),
    "depth, normals, class token, margin": (*_weights(1, 1, 1), *MARGIN),
    "depth, normals, class token, gram, margin": (*_weights(1, 1, 1), *GRAM, *MARGIN),
    "mirror": (*MIRROR, *_weights(0, 0, 0)),
    "mirror, depth, normals, class token": (*MIRROR, *_weights(1, 1, 1)),
}
"""By what is taught beside features: options beside the recommended preset's. Mirror: the control's features."""
CANDIDATES = ("depth, normals, class token",)
"""The recipes that a fold chooses from."""
SHARES = (0.5, 0.7, 1.0)
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


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A recipe to choose from, and the folder that holds what it gives."""

    recipe: str
    share: float
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.recipe}: {100 * self.share:g} %"


def make_candidates(full: Mapping[str, Path], export: Path, work: Path, shares: Sequence[float]) -> list[Candidate]:
    """Every share of every training's weights.

    Args:
        full: by recipe, folders of fit3d-finetune --weight-mix 1.
        export: any that they were trained on.
        work: for the folders of other shares.
        shares: of the fine-tuned weights.
    """
    backbone = FeatureGaussians.load(export).scene.backbone
    return [
        Candidate(recipe, share, mixed(training, share, work / f"{training.name}-{share:g}", backbone))
        for recipe, training in full.items()
        for share in shares
    ]


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


def choose(candidates: Sequence[Candidate], results: ProbeResults) -> dict[str, object]:
    """Name the best candidate, with the figures that it was chosen by."""
    gains = {each.name: gain(results, each.name) for each in candidates}
    best = max(candidates, key=lambda each: gains[each.name])
    return {
        "recipe": best.recipe,
        "share": best.share,
        "gains": gains,
        "figures": {arm.name: arm_figures(results, arm.name) for arm in results.arms},
        "validation": results.scenes,
    }


def results_beside(choice: Path) -> Path:
    """Where the probes' figures lie."""
    return choice.with_suffix(".results.json")


def recipe_options(choice: Path) -> tuple[str, ...]:
    """What was chosen, as options of fit3d-finetune."""
    found = json.loads(choice.read_text())
    return *RECIPES[found["recipe"]], "--weight-mix", str(found["share"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", nargs="+", required=True, help="RECIPE=folder of fit3d-finetune --weight-mix 1")
    parser.add_argument("--export", type=Path, required=True, help="any export that they were trained on")
    parser.add_argument("--train-data", nargs="+", required=True)
    parser.add_argument("--validation-data", nargs="+", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    full = {name: Path(folder) for name, _, folder in (words.partition("=") for words in arguments.full)}
    candidates = make_candidates(full, arguments.export, arguments.work_dir, SHARES)
    results = probe_candidates(candidates, arguments.train_data, arguments.validation_data)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    results.save(results_beside(arguments.output))
    found = choose(candidates, results)
    with atomic_file(arguments.output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["gains"]), "->", found["recipe"], found["share"])


if __name__ == "__main__":
    main()
