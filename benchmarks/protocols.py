"""Do the fast and the paper's probing protocol rank features the same way?

    python -m benchmarks.protocols --finetuned bench-rooms/finetuned/block-9-A-gaussians \\
        --control bench-rooms/finetuned/block-9-A-mirror --train-data room_00 room_01 --test-data room_08

Probes the same arms on the same data under both protocols and writes their figures, orders and Kendall's tau. The
paper's windows, upsampling, bins, flips and batches are used as they are; its 40,000 iterations take days on a CPU, so
--paper-iterations says how many of them (with its warm-up shortened in proportion).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from statistics import mean

from scipy.stats import kendalltau

from fit3d_finetune.probing.results import ProbeResults
from fit3d_ns.atomic import atomic_file


def probe(protocol: str, arguments: argparse.Namespace) -> ProbeResults:
    """Results of one protocol, kept in the work folder."""
    folder = arguments.work_dir / protocol
    if not (folder / "results.json").exists():
        command = [
            *(str(Path(sys.executable).with_name("fit3d-probe")), "--protocol", protocol, "--output-dir", str(folder)),
            *("--finetuned", str(arguments.finetuned), "--control", str(arguments.control)),
            *("--train-data", *arguments.train_data, "--test-data", *arguments.test_data),
            *("--tasks", "segmentation", "depth", "--seeds", *map(str, arguments.seeds)),
        ]
        if protocol == "paper":
            command += ["--iterations", str(arguments.paper_iterations)]
        subprocess.run(command, check=True, env=os.environ)
    return ProbeResults.load(folder / "results.json")


def table(fast: ProbeResults, paper: ProbeResults, iterations: int) -> str:
    """Figures of both, and how well their orders agree."""
    arms = [arm.name for arm in fast.arms]
    columns = {
        "mIoU": [[100 * mean(r.segmentation[arm].miou) for arm in arms] for r in (fast, paper)],
        "RMSE (m)": [[mean(r.depth[arm].rmse) for arm in arms] for r in (fast, paper)],
    }
    lines = [
        "# The fast protocol against the paper's",
        "",
        f"Made by `python -m benchmarks.protocols` on {date.today().isoformat()}: {len(fast.train_data)} rooms to",
        f"train on, {len(fast.test_data)} to test on, seeds {', '.join(map(str, fast.seeds))}; {iterations} iterations",
        "of the paper's protocol.",
        "",
        "| arm | " + " | ".join(f"{name}, fast | {name}, paper" for name in columns) + " |",
        "|---|" + "---|---|" * len(columns),
    ]
    for index, arm in enumerate(arms):
        cells = [f"{values[index]:.{1 if name == 'mIoU' else 3}f}" for name, pair in columns.items() for values in pair]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines.append("")
    for name, (one, other) in columns.items():
        lines.append(
            f"- {name}: Kendall's tau between the two orders of the arms {kendalltau(one, other).statistic:.2f}."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Probe twice and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finetuned", type=Path, required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--train-data", nargs="+", required=True)
    parser.add_argument("--test-data", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--paper-iterations", type=int, default=40_000)
    parser.add_argument("--work-dir", type=Path, default=Path("bench-protocols"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "protocols.md")
    arguments = parser.parse_args()
    fast, paper = (probe(name, arguments) for name in ("fast", "paper"))
    with atomic_file(arguments.output) as temporary:
        temporary.write_text(table(fast, paper, arguments.paper_iterations))
    print(f"Results: {arguments.output}")


if __name__ == "__main__":
    main()
