"""fit3d-probe: what frozen features know, before and after fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from fit3d_finetune.backbone.hub import INFO_FILE, read_finetuned, require_original
from fit3d_finetune.backbone.precision import PrecisionChoice, choose_precision
from fit3d_finetune.probing.data.checks import DEFAULT_TASKS, TASKS, VIEW_TASKS, TaskName
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.depth_benchmarks import depth_benchmark, depth_limit
from fit3d_finetune.probing.data.labelled_images import DepthBenchmarkName
from fit3d_finetune.probing.plan import Probing, default_arms
from fit3d_finetune.probing.protocol import PROTOCOLS, ProtocolName, check_iterations
from fit3d_finetune.probing.results import Example, ProbeResults
from fit3d_finetune.probing.run import probe
from fit3d_finetune.probing.tables import TABLES, write_tables
from fit3d_finetune.report.data import FIGURE_FILES
from fit3d_finetune.report.metrics import metrics_of
from fit3d_finetune.report.page import FIGURES_FOLDER, write_report
from fit3d_ns.common.console import CONSOLE, logger
from fit3d_ns.common.device import DeviceChoice, choose_device
from fit3d_ns.common.errors import InputError, exits_on_input_error
from fit3d_ns.common.output_place import mark_own_folder, require_own_files, require_writable
from fit3d_ns.common.temporaries import sweep_leftovers
from fit3d_ns.features.backbone import BackboneConfig, backbone_fingerprint
from fit3d_ns.features.weights import FILE_SUFFIXES

RESULTS_FILE = "results.json"
REPORT_FILE = "report.html"
COMMAND = "fit3d-probe"
OUTPUT_FILES = (
    *(RESULTS_FILE, REPORT_FILE),
    *(f"{table}.csv" for table in TABLES),
    *(f"{FIGURES_FOLDER}/{figure}" for figure in FIGURE_FILES),
)
"""All that a probing writes into its folder."""


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


def run(arguments: ProbeArguments) -> ProbeResults:
    """Do what the arguments say."""
    check_iterations(arguments.iterations)
    if not arguments.seeds:
        raise InputError("--seeds is empty: give at least one.")
    if arguments.max_depth is not None and not 0 < arguments.max_depth < float("inf"):
        raise InputError(f"--max-depth must be a number of metres above 0, not {arguments.max_depth}.")
    protocol = PROTOCOLS[arguments.protocol]
    if arguments.iterations is not None:
        protocol = protocol.shortened(arguments.iterations)
    if not arguments.tasks:
        raise InputError(f"--tasks is empty: give at least one of {', '.join(TASKS)}.")
    if not arguments.test_data:
        raise InputError("--test-data is empty: give at least one scene, folder or camvid split.")
    require_output_dir(arguments.output_dir)
    data = read_data([*arguments.train_data, *arguments.test_data], arguments.images_root)
    train, test = data[: len(arguments.train_data)], data[len(arguments.train_data) :]
    if not train and {*arguments.tasks} - {*VIEW_TASKS}:
        raise InputError(
            "--train-data is empty: give data with labels to train probes on (or --tasks consistency matching)."
        )
    device = choose_device(arguments.device)
    backbones = _backbones(arguments)
    if arguments.precision is not None:
        precision = choose_precision(arguments.precision, device)
        backbones = {name: replace(config, precision=precision) for name, config in backbones.items()}
    results, examples = probe(
        Probing(
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
    )
    write_results(results, examples, arguments.output_dir)
    CONSOLE.print(table(results))
    for comparison in results.comparisons:
        logger.info("%s", comparison.statement)
    logger.info("Report: %s", arguments.output_dir / REPORT_FILE)
    return results


def require_output_dir(output_dir: Path) -> None:
    """Check that results can be written to their folder, and would replace only those of an earlier probing.

    Raises:
        InputError: they cannot, or they would replace something else.
    """
    sweep_leftovers(output_dir)
    require_writable(output_dir / FIGURES_FOLDER)  # and with it the folder itself
    require_own_files(output_dir, OUTPUT_FILES, COMMAND, _holds_results)


def _holds_results(folder: Path) -> bool:
    """Whether it holds results of release 0.1, which left no mark."""
    try:
        data = json.loads((folder / RESULTS_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"format_version", "arms", "protocol"} <= data.keys()


def write_results(results: ProbeResults, examples: list[Example], folder: Path) -> None:
    """results.json, the tables as CSV, and report.html."""
    mark_own_folder(folder, COMMAND)
    write_tables(results, folder)
    write_report(results, examples, folder / REPORT_FILE)
    results.save(folder / RESULTS_FILE)


# What a terminal has room for, of the columns of the report: the main figure of each task.
_SHOWN = {
    ("segmentation", "mIoU"): "mIoU %",
    ("depth", "RMSE"): "depth RMSE m",
    ("normals", "RMSE angle"): "normals RMSE °",
    ("nearest_neighbours", "mIoU"): "kNN mIoU %",
    ("nearest_neighbours_across", "mIoU"): "other-angle kNN mIoU %",
}


def table(results: ProbeResults) -> Table:
    """The arms side by side: means over test scenes, ± standard deviation over seeds."""
    scenes = f"{len(results.scenes)} scene{'s' if len(results.scenes) != 1 else ''}"
    shown = Table(title=f"{len(results.test_images)} test images of {scenes}, protocol {results.protocol}")
    # Names stay whole where the terminal is narrow; figures wrap.
    shown.add_column("arm", min_width=max(len(arm.name) for arm in results.arms))
    metrics = []
    for metric in metrics_of(results):
        title = f"{metric.name} %" if "recall" in metric.name else _SHOWN.get((metric.part, metric.name))
        if title is not None:
            metrics.append(metric)
            shown.add_column(title)
    for arm in results.arms:
        shown.add_row(arm.name, *(metric.summary(results, arm.name) for metric in metrics))
    return shown


def _backbones(arguments: ProbeArguments) -> dict[str, BackboneConfig]:
    """By name: original, fine-tuned, 2D control, as far as they are given."""
    if arguments.finetuned is None:
        if arguments.control is not None:
            raise InputError("--control needs --finetuned: give the folder of the fine-tuned backbone too.")
        return _with_further({"original": arguments.backbone}, arguments.arm)
    finetuned = read_finetuned(arguments.finetuned)
    require_original(finetuned, arguments.finetuned)
    backbones = {"original": finetuned.original, "fine-tuned": finetuned.finetuned}
    if arguments.control is not None:
        control = read_finetuned(arguments.control)
        if control.original_sha256 != finetuned.original_sha256 or control.original.layer != finetuned.original.layer:
            raise InputError(
                f"--control {arguments.control} started from another backbone than --finetuned: give a pair."
            )
        backbones["2D control"] = control.finetuned
    return _with_further(backbones, arguments.arm)


def _with_further(backbones: dict[str, BackboneConfig], arms: Sequence[str]) -> dict[str, BackboneConfig]:
    """The backbones and those of --arm NAME=WEIGHTS; their weights are looked for before anything is encoded."""
    found = dict(backbones)
    for words in arms:
        name, separator, weights = (part.strip() for part in words.partition("="))
        if not (separator and name and weights) or "+" in name or "/" in name:
            raise InputError(f"--arm {words} is not NAME=WEIGHTS (a name has neither + nor /).")
        if name in found:
            raise InputError(f"--arm {words}: there is an arm “{name}” already; give another name.")
        config = _backbone_of(weights, backbones["original"])
        backbone_fingerprint(config)
        found[name] = config
    return found


def _backbone_of(weights: str, original: BackboneConfig) -> BackboneConfig:
    """What --arm names after the =."""
    path = Path(weights.removeprefix("local-dir:")).expanduser()
    if (path / INFO_FILE).is_file():
        return read_finetuned(path).finetuned
    if path.is_dir():
        return replace(original, weights=weights, name=BackboneConfig().name)
    if path.is_file():
        return replace(original, weights=weights)
    if path.suffix in FILE_SUFFIXES or len(path.parts) > 1:
        raise InputError(f"--arm …={weights}: there is no such file or folder.")
    return BackboneConfig(name=weights, weights="hub")


@exits_on_input_error
def main() -> None:
    """Console script `fit3d-probe`."""
    run(tyro.cli(Annotated[ProbeArguments, tyro.conf.arg(name="")], prog="fit3d-probe"))


if __name__ == "__main__":
    main()
