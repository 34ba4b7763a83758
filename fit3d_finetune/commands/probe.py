"""fit3d-probe: what frozen features know, before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fit3d_finetune.backbone.choices import PrecisionChoice
from fit3d_finetune.probing.data.tasks import DEFAULT_TASKS, TASKS, VIEW_TASKS, DepthBenchmarkName, TaskName
from fit3d_finetune.probing.protocol import PROTOCOLS, ProtocolName, check_iterations
from fit3d_ns.common.choices import DeviceChoice
from fit3d_ns.common.command_line import read_arguments
from fit3d_ns.common.console import CONSOLE, logger
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.seeds import require_seed
from fit3d_ns.common.third_parties import quiet_third_parties
from fit3d_ns.features.config import BackboneConfig

if TYPE_CHECKING:
    from fit3d_finetune.probing.plan import Probing
    from fit3d_finetune.probing.results import ProbeResults
    from fit3d_ns.common.estimate import Estimate


MAX_DEPTH_LIMIT = 10_000.0
"""Metres. Depth is a choice among bins up to the largest depth: with more, one bin would hold everything near."""


@dataclass
class ProbeArguments:
    """Linear probes, nearest neighbours, multi-view consistency and matching of frozen features, arms side by side."""

    test_data: tuple[str, ...]
    """Where to test: scenes (transforms.json with depth_file_path, semantic_file_path), folders (images/,
    annotations/, depth/), published data sets as KIND:PATH (camvid:…/camvid/val, ade20k:…, nyu-depth:…; docs/data.md),
    or for consistency and matching alone exports (runs/<scene>)."""
    train_data: tuple[str, ...] = ()
    """Where probes are trained; consistency and matching need none."""
    finetuned: Path | None = None
    """A folder of fit3d-finetune: probes the original, the fine-tuned, both together, the original beside itself."""
    control: Path | None = None
    """A folder of fit3d-finetune --targets mirror: adds the control without 3D."""
    arm: tuple[str, ...] = ()
    """Further backbones, each as NAME=WEIGHTS: a folder of fit3d-finetune or of timm, a file of weights for the
    original's architecture, or the name of a timm model. Each is probed alone and together with the original."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """What to probe where no fine-tuned folder is given."""
    tasks: tuple[TaskName, ...] = DEFAULT_TASKS
    """What to measure. Not by default: depth-patches (depth without the class token) and nearest-neighbours-across
    (segmentation by the patches of other views of the test scene that look 30 degrees or more aside)."""
    protocol: ProtocolName = "fast"
    """fast: cached features of whole images, minutes on a CPU; paper: what the published code does, crops encoded anew
    in every iteration (days on a CPU; see docs/fidelity/probes.md)."""
    iterations: int | None = None
    """Probe training steps instead of the protocol's (both tasks)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One probe of each arm per seed."""
    max_depth: float | None = None
    """Metres; the bins end there and farther pixels do not count. None: what belongs to the data (80 for kitti-depth,
    20 for scannetpp-depth), else 10."""
    depth_benchmark: DepthBenchmarkName | None = None
    """Crops of a benchmark: where depth is scored (Eigen's for scannet and nyu, Garg's for kitti), and what the paper
    protocol trains on; none: whole images. None: those of nyu-depth, scannet-depth and kitti-depth, else none."""
    images_root: Path | None = None
    """Where the images of exports are now, if they moved."""
    precision: PrecisionChoice | None = None
    """Of all backbones: fp32, bf16, or auto: bf16 where it is faster (features then differ by about 1 %). None: fp32,
    or backbone.precision."""
    device: DeviceChoice = "auto"
    """Where backbones run, and the heads of segmentation and depth are trained."""
    output_dir: Path = Path("probe")
    """For results.json, tables as CSV, and report.html."""
    dry_run: bool = False
    """Check everything as a start would, probe with a few images and iterations, of which nothing is kept, and print
    what all of it will take in time, memory and disk; write nothing."""


def run(arguments: ProbeArguments) -> ProbeResults:
    """Do what the arguments say."""
    from fit3d_finetune.probing.run import probe
    from fit3d_finetune.report.folder import REPORT_FILE, write_results
    from fit3d_finetune.report.terminal import table

    results, examples = probe(prepare(arguments))
    write_results(results, examples, arguments.output_dir)
    CONSOLE.print(table(results))
    for comparison in results.comparisons:
        logger.info("%s", comparison.statement)
    logger.info("Report: %s", arguments.output_dir / REPORT_FILE)
    return results


def preview(arguments: ProbeArguments) -> Estimate:
    """What --dry-run prints."""
    from fit3d_finetune.probing.preview import preview_probing
    from fit3d_finetune.report.folder import write_results

    return preview_probing(prepare(arguments), arguments.output_dir, write_results)


def prepare(arguments: ProbeArguments) -> Probing:
    """What is to be done, once the arguments, the data sets' lists and the output folder are found fit.

    Raises:
        InputError: they are not.
    """
    check_iterations(arguments.iterations)
    if not arguments.seeds:
        raise InputError("--seeds is empty: give at least one.")
    for seed in arguments.seeds:
        require_seed(seed, "--seeds")
    if len({*arguments.seeds}) < len(arguments.seeds):
        raise InputError("--seeds names a seed twice, which would count one probe as two: give each once.")
    if arguments.max_depth is not None and not 0 < arguments.max_depth <= MAX_DEPTH_LIMIT:
        raise InputError(
            f"--max-depth must be a number of metres above 0, at most {MAX_DEPTH_LIMIT:g}, not {arguments.max_depth}."
        )
    protocol = PROTOCOLS[arguments.protocol]
    if arguments.iterations is not None:
        protocol = protocol.shortened(arguments.iterations)
    if not arguments.tasks:
        raise InputError(f"--tasks is empty: give at least one of {', '.join(TASKS)}.")
    if not arguments.test_data:
        raise InputError("--test-data is empty: give at least one scene, folder or camvid split.")
    from fit3d_finetune.backbone.precision import choose_precision
    from fit3d_finetune.probing.backbones import chosen_backbones
    from fit3d_finetune.probing.data.datasets import read_data
    from fit3d_finetune.probing.data.depth_benchmarks import depth_benchmark, depth_limit
    from fit3d_finetune.probing.plan import Probing, default_arms
    from fit3d_finetune.report.folder import require_output_dir
    from fit3d_ns.common.device import choose_device

    require_output_dir(arguments.output_dir)
    data = read_data([*arguments.train_data, *arguments.test_data], arguments.images_root)
    train, test = data[: len(arguments.train_data)], data[len(arguments.train_data) :]
    if not train and {*arguments.tasks} - {*VIEW_TASKS}:
        raise InputError(
            "--train-data is empty: give data with labels to train probes on (or --tasks consistency matching)."
        )
    device = choose_device(arguments.device)
    backbones = chosen_backbones(arguments.backbone, arguments.finetuned, arguments.control, arguments.arm)
    if arguments.precision is not None:
        precision = choose_precision(arguments.precision, device)
        backbones = {name: replace(config, precision=precision) for name, config in backbones.items()}
    return Probing(
        backbones=backbones,
        arms=default_arms(list(backbones)),
        train=train or test,
        test=test,
        tasks=arguments.tasks,
        protocol=protocol,
        seeds=arguments.seeds,
        device=device,
        max_depth=depth_limit(data, arguments.max_depth),
        benchmark=depth_benchmark(data, arguments.depth_benchmark),
    )


def parse(words: Sequence[str] | None = None) -> ProbeArguments:
    """The arguments of the command line."""
    return read_arguments(ProbeArguments, "fit3d-probe", words)


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-probe`."""
    arguments = parse()
    quiet_third_parties()
    if arguments.dry_run:
        preview(arguments).show()
    else:
        run(arguments)


if __name__ == "__main__":
    main()
