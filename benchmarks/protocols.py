"""Do the fast and the paper's probing protocol rank features the same way?

    python -m benchmarks.protocols --finetuned finetuned/ --control control/ --layers 5 11 \\
        --train-data room_00 room_01 --test-data room_08 room_09 --every 5 --paper-iterations 600

Probes the same features on the same images under both protocols: the original at several blocks, the fine-tuned and
the control alone and with the original. Writes their figures and how well their orders agree. The paper's windows,
upsampling, bins, flips and batches are used as they are; its 40,000 iterations take days on a CPU, so
--paper-iterations says how many of them (with its warm-up shortened in proportion).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import combinations
from pathlib import Path

from scipy.stats import kendalltau

from benchmarks.rasterization import processor
from fit3d_finetune.hub import read_finetuned
from fit3d_finetune.precision import choose_precision
from fit3d_finetune.probing.datasets import read_data
from fit3d_finetune.probing.labelled_images import LabelledImages
from fit3d_finetune.probing.protocol import FAST, PAPER, Protocol
from fit3d_finetune.probing.results import Arm, ProbeResults
from fit3d_finetune.probing.run import RESULTS_FILE, Probing, probe
from fit3d_finetune.report.metrics import Metric, mean, metrics_of, spread
from fit3d_ns.atomic import atomic_file
from fit3d_ns.backbone import BackboneConfig


@dataclass(frozen=True)
class Agreement:
    """How well two orders of the same arms agree in one metric."""

    tau: float
    """Kendall's."""
    opposite: tuple[tuple[str, str], ...]
    """Pairs of arms that the protocols order differently."""
    clear: int
    """Pairs that are further apart than twice their spread in both protocols."""
    clear_opposite: int
    """Of these, how many are ordered differently."""


def features(arguments: argparse.Namespace) -> tuple[dict[str, BackboneConfig], list[Arm]]:
    """Backbones by name, and the arms: each alone, and those that were trained with the original."""
    precision = choose_precision("auto", "cpu")
    finetuned, control = read_finetuned(arguments.finetuned), read_finetuned(arguments.control)
    backbones = {"original": finetuned.original, "fine-tuned": finetuned.finetuned, "2D control": control.finetuned}
    arms = [Arm(name, (name,)) for name in backbones]
    arms += [Arm(f"original + {name}", ("original", name)) for name in ("fine-tuned", "2D control")]
    for layer in arguments.layers:
        name = f"original, block {layer + 1}"
        backbones[name] = replace(finetuned.original, layer=layer)
        arms.append(Arm(name, (name,)))
    return {name: replace(config, precision=precision) for name, config in backbones.items()}, arms


def thinned(data: Sequence[LabelledImages], every: int) -> list[LabelledImages]:
    return [replace(part, images=part.images[every // 2 :: every]) for part in data]


def compare(metric: Metric, one: ProbeResults, other: ProbeResults) -> Agreement:
    """Of two protocols' results for the same arms."""
    arms = [arm.name for arm in one.arms]
    values = [[metric.measured(results, arm) for arm in arms] for results in (one, other)]
    means = [[mean(seeds) for seeds in of] for of in values]
    opposite, clear, clear_opposite = [], 0, 0
    for i, j in combinations(range(len(arms)), 2):
        gaps = [of[i] - of[j] for of in means]
        far = all(_far_apart(of[i], of[j]) for of in values)
        differently = gaps[0] * gaps[1] < 0
        opposite += [(arms[i], arms[j])] if differently else []
        clear += far
        clear_opposite += far and differently
    return Agreement(kendalltau(*means).statistic, tuple(opposite), clear, clear_opposite)


def _far_apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the means of two arms differ by more than twice the standard deviation of their difference."""
    return abs(mean(one) - mean(other)) > 2 * math.hypot(spread(one), spread(other))


def table(fast: ProbeResults, paper: ProbeResults, iterations: int) -> str:
    """Figures of both, and how well their orders agree."""
    metrics = [metric for metric in metrics_of(fast) if metric.name in ("mIoU", "RMSE")]
    arms = [arm.name for arm in fast.arms]
    train, test = (", ".join(Path(name).name for name in data) for data in (fast.train_data, fast.test_data))
    minutes = [sum(results.seconds.values()) / 60 for results in (paper, fast)]
    numbers = ", ".join(map(str, fast.seeds))
    seeds = f"seeds {numbers} (mean ± standard deviation)" if len(fast.seeds) > 1 else f"seed {numbers}"
    lines = [
        "# The fast protocol against the paper's",
        "",
        f"Made by `python -m benchmarks.protocols` on {date.today().isoformat()} ({processor()}): probes trained on",
        f"{train}, tested on {len(fast.test_images)} images of {test}; {seeds};",
        f"{iterations} iterations of the paper's protocol. It took {minutes[0]:.0f} minutes, the fast one "
        f"{minutes[1]:.0f}.",
        "",
        "| arm | " + " | ".join(f"{metric.name}, fast | {metric.name}, paper" for metric in metrics) + " |",
        "|---|" + "---|---|" * len(metrics),
    ]
    for arm in arms:
        cells = [metric.summary(results, arm) for metric in metrics for results in (fast, paper)]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines.append("")
    pairs = len(arms) * (len(arms) - 1) // 2
    for metric in metrics:
        found = compare(metric, fast, paper)
        swapped = "; ".join(" and ".join(pair) for pair in found.opposite) or "none"
        line = f"- {metric.name}: Kendall's tau between the two orders {found.tau:.2f}; of {pairs} pairs of arms, "
        line += f"ordered differently: {swapped}."
        if len(fast.seeds) > 1:  # one seed has no spread
            line += f" Of the {found.clear} pairs that lie further apart than twice their spread in both, "
            line += f"{found.clear_opposite}."
        lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Probe twice and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finetuned", type=Path, required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--layers", nargs="*", type=int, default=[5, 11], help="further blocks of the original, from 0")
    parser.add_argument("--train-data", nargs="+", required=True)
    parser.add_argument("--test-data", nargs="+", required=True)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th image only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--paper-iterations", type=int, default=PAPER.segmentation_iterations)
    parser.add_argument("--work-dir", type=Path, default=Path("bench-protocols"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "protocols.md")
    arguments = parser.parse_args()
    backbones, arms = features(arguments)
    found = []
    for protocol in (FAST, PAPER.shortened(arguments.paper_iterations)):
        path = arguments.work_dir / protocol.name / RESULTS_FILE
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            run(protocol, backbones, arms, arguments).save(path)
        found.append(ProbeResults.load(path))
    with atomic_file(arguments.output) as temporary:
        temporary.write_text(table(found[0], found[1], arguments.paper_iterations))
    print(f"Results: {arguments.output}")


def run(
    protocol: Protocol, backbones: dict[str, BackboneConfig], arms: list[Arm], arguments: argparse.Namespace
) -> ProbeResults:
    """Segmentation and depth of all arms under one protocol."""
    train, test = (thinned(read_data(data), arguments.every) for data in (arguments.train_data, arguments.test_data))
    tasks = ("segmentation", "depth")
    results, _ = probe(Probing(backbones, arms, train, test, tasks, protocol, tuple(arguments.seeds)))
    return results


if __name__ == "__main__":
    main()
