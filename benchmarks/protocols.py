"""Do the fast and the paper's probing protocol rank features the same way?

    python -m benchmarks.protocols depth --finetuned finetuned/ --control control/ --layers 5 11 \\
        --train-data room_00 room_01 --test-data room_08 room_09 --every 5 --paper-iterations 6000

Probes the same features on the same images under both protocols: the original at several blocks, the fine-tuned and
the control alone and with the original. Writes their figures and how well their orders agree. The paper's windows,
upsampling, bins, flips and batches are used as they are; its 40,000 iterations take days on a CPU, so
--paper-iterations says how many of them (with its warm-up shortened in proportion).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Literal, get_args

from scipy.stats import kendalltau

from benchmarks.rasterization import processor
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.backbone.precision import choose_precision
from fit3d_finetune.probing.comparison import MIN_SCENES, Comparison
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.labelled_images import LabelledImages
from fit3d_finetune.probing.plan import Probing
from fit3d_finetune.probing.protocol import FAST, PAPER
from fit3d_finetune.probing.results import Arm, ProbeResults
from fit3d_finetune.probing.run import probe
from fit3d_finetune.probing.significance import compare_arms
from fit3d_finetune.report.folder import RESULTS_FILE
from fit3d_finetune.report.metrics import mean, metrics_of
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.features.backbone import BackboneConfig

Task = Literal["segmentation", "depth"]
_SHOWN: dict[Task, tuple[str, ...]] = {"segmentation": ("mIoU", "pixel acc."), "depth": ("RMSE", "AbsRel", "δ < 1.25")}
"""Columns of the table; the first one ranks."""


@dataclass(frozen=True)
class Agreement:
    """How well two orders of the same arms agree."""

    tau: float
    """Kendall's, of the means over seeds."""
    opposite: tuple[tuple[str, str], ...]
    """Pairs of arms that the protocols order differently."""
    clear: int
    """Pairs that differ clearly under both: in every test scene, or where these are enough, significantly."""
    clear_opposite: int
    """Of these, how many differ in opposite directions."""


def features(arguments: argparse.Namespace) -> tuple[dict[str, BackboneConfig], list[Arm]]:
    """Backbones by name, and the arms: each alone, and with the original, that one included."""
    precision = choose_precision("auto", "cpu")
    finetuned, control = read_finetuned(arguments.finetuned), read_finetuned(arguments.control)
    backbones = {"original": finetuned.original, "fine-tuned": finetuned.finetuned, "2D control": control.finetuned}
    arms = [Arm(name, (name,)) for name in backbones]
    arms += [Arm(f"original + {name}", ("original", name)) for name in backbones]
    for layer in arguments.layers:
        name = f"original, block {layer + 1}"
        backbones[name] = replace(finetuned.original, layer=layer)
        arms.append(Arm(name, (name,)))
    return {name: replace(config, precision=precision) for name, config in backbones.items()}, arms


def thinned(data: Sequence[LabelledImages], every: int) -> list[LabelledImages]:
    return [replace(part, images=part.images[every // 2 :: every]) for part in data]


def agreement(task: Task, one: ProbeResults, other: ProbeResults) -> Agreement:
    """Of two protocols' results for the same arms and images."""
    metric = next(metric for metric in metrics_of(one) if (metric.part, metric.name) == (task, _SHOWN[task][0]))
    arms = [arm.name for arm in one.arms]
    means = [[mean(metric.measured(results, arm)) for arm in arms] for results in (one, other)]
    pairs = list(combinations(arms, 2))
    compared = [[c for c in compare_arms([[results]], pairs) if c.task == task] for results in (one, other)]
    opposite, clear, clear_opposite = [], 0, 0
    for pair in pairs:
        i, j = (arms.index(name) for name in pair)
        if (means[0][i] - means[0][j]) * (means[1][i] - means[1][j]) < 0:
            opposite.append(pair)
        signs = [_clear(comparisons, pair) for comparisons in compared]
        clear += all(signs)
        clear_opposite += signs[0] * signs[1] < 0
    return Agreement(kendalltau(*means).statistic, tuple(opposite), clear, clear_opposite)


def _clear(comparisons: Sequence[Comparison], pair: tuple[str, str]) -> int:
    """1 if the first arm of the pair is clearly better, -1 if clearly worse, else 0."""
    [found] = [found for found in comparisons if (found.arm, found.baseline) == pair]
    return found.verdict.startswith("better") - found.verdict.startswith("worse")


def table(task: Task, fast: ProbeResults, paper: ProbeResults, iterations: int) -> str:
    """Figures of both, and how well their orders agree."""
    metrics = [metric for metric in metrics_of(fast) if metric.part == task and metric.name in _SHOWN[task]]
    train, test = (", ".join(Path(name).name for name in data) for data in (fast.train_data, fast.test_data))
    minutes = [sum(results.seconds.values()) / 60 for results in (paper, fast)]
    numbers = ", ".join(map(str, fast.seeds))
    seeds = f"seeds {numbers} (mean ± standard deviation)" if len(fast.seeds) > 1 else f"seed {numbers}"
    lines = [
        f"# The fast protocol against the paper's: {task}",
        "",
        f"Made by `python -m benchmarks.protocols {task}` on {date.today().isoformat()} ({processor()}):",
        f"probes trained on {train}, tested on {len(fast.test_images)} images",
        f"of {test}; {seeds}; {iterations} iterations of the paper's protocol.",
        f"It took {minutes[0]:.0f} minutes, the fast one {minutes[1]:.0f}.",
        "",
        "| arm | " + " | ".join(f"{metric.name}, fast | {metric.name}, paper" for metric in metrics) + " |",
        "|---|" + "---|---|" * len(metrics),
    ]
    for arm in fast.arms:
        cells = [metric.summary(results, arm.name) for metric in metrics for results in (fast, paper)]
        lines.append(f"| {arm.name} | " + " | ".join(cells) + " |")
    found = agreement(task, fast, paper)
    swapped = "; ".join(" and ".join(pair) for pair in found.opposite) or "none"
    pairs = len(fast.arms) * (len(fast.arms) - 1) // 2
    count = len(fast.scenes)
    clearly = "significantly" if count >= MIN_SCENES else f"in the same direction in all {count} test scenes"
    lines += [
        "",
        f"- {_SHOWN[task][0]}: Kendall's tau between the two orders {found.tau:.2f}; of {pairs} pairs of arms, ordered "
        f"differently: {swapped}.",
        f"- Of the {found.clear} pairs whose {_SHOWN[task][0]} differs {clearly} under both protocols, "
        f"{found.clear_opposite} differ in opposite directions.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Probe twice and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=get_args(Task))
    parser.add_argument("--finetuned", type=Path, required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--layers", nargs="*", type=int, default=[5, 11], help="further blocks of the original, from 0")
    parser.add_argument("--train-data", nargs="+", required=True)
    parser.add_argument("--test-data", nargs="+", required=True)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th image only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--paper-iterations", type=int, default=PAPER.segmentation_iterations)
    parser.add_argument("--work-dir", type=Path, default=Path("bench-protocols"))
    parser.add_argument("--output", type=Path, help="benchmarks/results/protocols_TASK.md unless given")
    arguments = parser.parse_args()
    backbones, arms = features(arguments)
    train, test = (thinned(read_data(data), arguments.every) for data in (arguments.train_data, arguments.test_data))
    found = []
    for protocol in (FAST, PAPER.shortened(arguments.paper_iterations)):
        path = arguments.work_dir / arguments.task / protocol.name / RESULTS_FILE
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            probing = Probing(backbones, arms, train, test, (arguments.task,), protocol, tuple(arguments.seeds))
            probe(probing)[0].save(path)
        found.append(ProbeResults.load(path))
    output = arguments.output or Path(__file__).parent / "results" / f"protocols_{arguments.task}.md"
    with atomic_file(output) as temporary:
        temporary.write_text(table(arguments.task, found[0], found[1], arguments.paper_iterations))
    print(f"Results: {output}")


if __name__ == "__main__":
    main()
