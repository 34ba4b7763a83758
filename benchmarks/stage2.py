"""What fine-tuning and probing cost beyond the arithmetic that they cannot do without.

    python -m benchmarks.stage2 --exports runs/ --train-data examples/room [--json out.json]

- A fine-tuning step (images, targets, loss, clipping, AdamW) against forward and backward of the backbone alone on
  a batch in memory, alternately.
- Training the probes of three arms with three seeds together against those of one arm with one seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.rasterization import processor
from fit3d_finetune.main import choose_device
from fit3d_finetune.optimizer import build_optimizer, tuned_parameters
from fit3d_finetune.precision import choose_precision
from fit3d_finetune.probing.datasets import read_data
from fit3d_finetune.probing.depth import train_depth
from fit3d_finetune.probing.encoding import EncodedWindows, standardizations, whole_images
from fit3d_finetune.probing.protocol import FAST
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.probing.segmentation import train_segmentation
from fit3d_finetune.recipe import PRESETS
from fit3d_finetune.samples import Loader, Samples
from fit3d_finetune.scenes import backbone_config, find_scenes, view_refs
from fit3d_finetune.target_files import TargetFolder
from fit3d_finetune.targets import TargetStore
from fit3d_finetune.train import training_step
from fit3d_ns.backbone import BackboneConfig, load_backbone


@dataclass
class Row:
    """Medians in milliseconds of what we do and of what it is measured against."""

    name: str
    ours_ms: float
    reference_ms: float
    waited_ms: float | None = None
    """Per step, for data."""

    @property
    def ratio(self) -> float:
        return self.ours_ms / self.reference_ms


def milliseconds(function: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def finetuning_step(exports: Path, device: str, steps: int, warmup: int = 3) -> Row:
    """Our step, as `fit3d-finetune` does it, and the backbone alone, alternately."""
    scenes = find_scenes(exports)
    config = backbone_config(scenes, None, choose_precision("auto", device))
    recipe = PRESETS["recommended"]
    with tempfile.TemporaryDirectory() as folder:
        store = TargetStore(scenes, TargetFolder(Path(folder), 20_000_000_000), device, "gaussians", config)
        store.prepare()
        samples = Samples(view_refs(scenes, "train"), store)
        backbone = load_backbone(config, device)
        parameters = tuned_parameters(backbone)
        for name, parameter in backbone.model.named_parameters():
            parameter.requires_grad_(name in parameters)
        optimizer = build_optimizer(backbone, recipe)
        images = torch.stack([samples[i].image for i in range(recipe.batch_size)]).to(device)

        def plain() -> None:
            optimizer.zero_grad(set_to_none=True)
            backbone(images).abs().mean().backward()

        loader = Loader(samples, recipe, 0, 0, steps + warmup)
        batches = iter(loader)

        def ours() -> None:
            _, batch = next(batches)
            training_step(backbone, list(parameters.values()), optimizer, batch, recipe, 0.0)

        times: list[tuple[float, float]] = []
        for step in range(steps + warmup):
            if step == warmup:
                loader.waited = 0.0
            times.append((milliseconds(ours, device), milliseconds(plain, device)))
        ours_ms, plain_ms = (median(column) for column in zip(*times[warmup:], strict=True))
        return Row("fine-tuning step / forward and backward", ours_ms, plain_ms, 1000 * loader.waited / steps)


def probes(data: list[str], iterations: int, repeats: int) -> list[Row]:
    """Probes of three arms and three seeds against one of each; the arms are two blocks of the backbone, and both."""
    images = [image for part in read_data(data) for image in part.images]
    config = {"one": BackboneConfig(), "other": BackboneConfig(layer=5)}
    encoded = EncodedWindows(images, whole_images(len(images)), config)
    statistics = standardizations(encoded)
    many = [Arm("one", ("one",)), Arm("other", ("other",)), Arm("both", ("one", "other"))]
    only = EncodedWindows(images, whole_images(len(images)), {"one": config["one"]})
    num_classes = len(read_data(data)[0].classes)
    protocol = replace(FAST, segmentation_iterations=iterations, depth_iterations=iterations)

    def segmentation(windows: EncodedWindows, arms: list[Arm], seeds: tuple[int, ...]) -> None:
        train_segmentation(windows, statistics, arms, num_classes, seeds, protocol)

    def depth(windows: EncodedWindows, arms: list[Arm], seeds: tuple[int, ...]) -> None:
        train_depth(windows, statistics, arms, seeds, protocol, 10.0)

    rows = []
    for name, train in (("segmentation", segmentation), ("depth", depth)):
        times = []
        for _ in range(repeats):
            together_ms = milliseconds(partial(train, encoded, many, (0, 1, 2)), "cpu")
            times.append((together_ms, milliseconds(partial(train, only, many[:1], (0,)), "cpu")))
        together, one = (median(column) for column in zip(*times, strict=True))
        rows.append(Row(f"{name} probes, 3 arms and 3 seeds / 1 and 1", together, one))
    return rows


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exports", type=Path, required=True)
    parser.add_argument("--train-data", nargs="+", required=True, help="labelled scenes, as fit3d-probe takes them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--iterations", type=int, default=60, help="of the probes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    rows = [finetuning_step(arguments.exports, device, arguments.steps)]
    rows += probes(arguments.train_data, arguments.iterations, arguments.repeats)
    title = f"{processor() if device == 'cpu' else torch.cuda.get_device_name()}, {torch.get_num_threads()} threads"
    table = Table(title=title)
    for column in ("", "ours (ms)", "reference (ms)", "ratio", "waiting for data (ms)"):
        table.add_column(column)
    for row in rows:
        waited = "" if row.waited_ms is None else f"{row.waited_ms:.1f}"
        table.add_row(row.name, f"{row.ours_ms:.0f}", f"{row.reference_ms:.0f}", f"{row.ratio:.2f}", waited)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"title": title, "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
