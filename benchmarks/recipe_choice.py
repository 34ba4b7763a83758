"""Choose the learning rate and the share of fine-tuned weights, by rooms that no table of the fold is tested on.

    python -m benchmarks.recipe_choice --full FOLDER… --export runs/room_02 --train-data ROOM… --validation-data ROOM…
        --work-dir FOLDER --output choice.json

One training per rate with all of the weights, on rooms of the fold's training half; the candidates are shares of their
weights. Probes are trained on the labels of the same rooms and tested on the validation rooms. What decides was fixed
before any figure was seen: the relative gain of mIoU plus the relative fall of depth RMSE against the original, mean of
the fine-tuned features alone and with the original's.
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
from fit3d_finetune.probing.protocol import FAST
from fit3d_finetune.probing.results import Arm, ProbeResults
from fit3d_finetune.probing.run import Probing, probe
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.scene.gaussians import FeatureGaussians

SHARES = (0.5, 0.7, 1.0)
EVERY = 2
"""Every second image is enough to choose by."""
SEEDS = (0, 1)
ORIGINAL = "original"


def gain(results: ProbeResults, name: str) -> float:
    """Relative gain of mIoU plus relative fall of RMSE, mean of alone and with the original."""
    miou, rmse = (
        {arm.name: mean(getattr(part[arm.name], figure)) for arm in results.arms}
        for part, figure in ((results.segmentation, "miou"), (results.depth, "rmse"))
    )
    arms = (name, _together(name))
    return mean((miou[arm] / miou[ORIGINAL] - 1) + (1 - rmse[arm] / rmse[ORIGINAL]) for arm in arms)


def _together(name: str) -> str:
    return f"{ORIGINAL} + {name}"


def thinned(data: Sequence[LabelledImages]) -> list[LabelledImages]:
    """Every second image of each."""
    return [dataclasses.replace(part, images=part.images[::EVERY]) for part in data]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A recipe to choose from, and the folder that holds what it gives."""

    lr: float
    share: float
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.lr:.0e}, {100 * self.share:g} %"


def make_candidates(full: Sequence[Path], export: Path, work: Path) -> list[Candidate]:
    """Every share of every training's weights."""
    backbone = FeatureGaussians.load(export).scene.backbone
    candidates = []
    for training in full:
        lr = float(read_finetuned(training).summary["run"]["recipe"]["lr"])
        for share in SHARES:
            folder = mixed(training, share, work / f"{lr:.0e}-{share:g}", backbone)
            candidates.append(Candidate(lr, share, folder))
    return candidates


def probe_on_validation(
    backbones: Mapping[str, BackboneConfig],
    arms: list[Arm],
    train: Sequence[str],
    validation: Sequence[str],
    tasks: tuple[TaskName, ...],
) -> ProbeResults:
    """Probes on every second image, in the arithmetic of training, as the table's have it."""
    precision = choose_precision("auto", "cpu")
    data = read_data([*train, *validation])
    results, _ = probe(
        Probing(
            backbones={name: dataclasses.replace(config, precision=precision) for name, config in backbones.items()},
            arms=arms,
            train=thinned(data[: len(train)]),
            test=thinned(data[len(train) :]),
            tasks=tasks,
            protocol=FAST,
            seeds=SEEDS,
        )
    )
    return results


def choose(candidates: Sequence[Candidate], train: Sequence[str], validation: Sequence[str]) -> dict[str, object]:
    """Probe all candidates and name the best one, with the figures that it was chosen by."""
    backbones = {ORIGINAL: read_finetuned(candidates[0].folder).original}
    backbones |= {each.name: read_finetuned(each.folder).finetuned for each in candidates}
    arms = [Arm(name, (name,)) for name in backbones]
    arms += [Arm(_together(each.name), (ORIGINAL, each.name)) for each in candidates]
    results = probe_on_validation(backbones, arms, train, validation, ("segmentation", "depth"))
    gains = {each.name: gain(results, each.name) for each in candidates}
    best = max(candidates, key=lambda each: gains[each.name])
    figures = {
        arm.name: {"miou": mean(results.segmentation[arm.name].miou), "rmse": mean(results.depth[arm.name].rmse)}
        for arm in results.arms
    }
    return {
        "lr": best.lr,
        "share": best.share,
        "gains": gains,
        "figures": figures,
        "train": [Path(place).name for place in train],
        "validation": [Path(place).name for place in validation],
    }


def recipe_options(choice: Path) -> tuple[str, ...]:
    """What was chosen, as options of fit3d-finetune."""
    found = json.loads(choice.read_text())
    return "--lr", str(found["lr"]), "--weight-mix", str(found["share"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, nargs="+", required=True, help="folders of fit3d-finetune --weight-mix 1")
    parser.add_argument("--export", type=Path, required=True, help="any export that they were trained on")
    parser.add_argument("--train-data", nargs="+", required=True)
    parser.add_argument("--validation-data", nargs="+", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    candidates = make_candidates(arguments.full, arguments.export, arguments.work_dir)
    found = choose(candidates, arguments.train_data, arguments.validation_data)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(arguments.output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["gains"]), "->", found["lr"], found["share"])


if __name__ == "__main__":
    main()
