"""What fine-tuning and probing cost beyond the arithmetic that they cannot do without.

    python -m benchmarks.stage2 --exports runs/ --train-data examples/room [--json out.json]

- A fine-tuning step (images, targets, loss, clipping, AdamW) towards features alone against forward and backward of
  the backbone alone on a batch in memory, and what its parts take; and one with heads of depth and normals and the
  class token against forward, backward and AdamW on such a batch. All alternately.
- Training the probes of three arms with three seeds together against those of one arm with one seed, per iteration,
  each beside the matrix products that it cannot do without: arms of one backbone and of both and three seeds are
  twelve times the products of one.
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
from fit3d_finetune.backbone.precision import choose_precision
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.encoding import EncodedImages, standardizations
from fit3d_finetune.probing.depth import train_depth
from fit3d_finetune.probing.protocol import FAST
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.probing.segmentation import train_segmentation
from fit3d_finetune.targets.files import TargetFolder
from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.targets.scenes import backbone_config, view_refs
from fit3d_finetune.targets.store import StoreKind, TargetStore
from fit3d_finetune.training.learner import make_learner
from fit3d_finetune.training.recipe import PRESETS, Recipe
from fit3d_finetune.training.samples import Loader, Samples
from fit3d_finetune.training.step import training_step
from fit3d_ns.common.device import choose_device
from fit3d_ns.features.backbone import BackboneConfig, load_backbone


@dataclass(frozen=True)
class Row:
    """Medians in milliseconds of what we do and of what it is measured against."""

    name: str
    ours_ms: float
    reference_ms: float
    parts_ms: dict[str, float]
    """What is in ours (and, where it says so, in the reference), by name."""
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


def finetuning_steps(exports: Path, device: str, steps: int, warmup: int = 3) -> list[Row]:
    """Our step as `fit3d-finetune` does it, towards features alone and with heads, and plain ones, alternately.

    The first against forward and backward of the backbone alone, which no step can do without; the second, with depth,
    normals and the class token, against the same with AdamW: a loop over features, written by hand.
    """
    scenes = find_scenes(exports)
    config = backbone_config(scenes, None, choose_precision("auto", device))
    with_heads = PRESETS["recommended"]
    features_alone = replace(with_heads, depth_weight=0.0, normal_weight=0.0, class_token_weight=0.0)
    with tempfile.TemporaryDirectory() as folder:

        def store(kind: StoreKind) -> TargetStore:
            files = TargetFolder(Path(folder), 20_000_000_000)
            made = TargetStore(scenes, files, device, kind, config, with_heads.target_rule)
            made.prepare()
            return made

        refs, targets = view_refs(scenes, "train"), store("gaussians")
        taught = Samples(refs, targets, geometry=store("geometry"), class_tokens=store("class-token"))
        samples = Samples(refs, targets)
        images = torch.stack([samples[i].image for i in range(with_heads.batch_size)]).to(device)
        plain = make_learner(load_backbone(config, device), features_alone)

        def forward_and_backward() -> None:
            plain.optimizer.zero_grad(set_to_none=True)
            plain.backbone(images).abs().mean().backward()

        def plain_step() -> None:
            forward_and_backward()
            plain.optimizer.step()

        def clip() -> None:
            torch.nn.utils.clip_grad_norm_(list(plain.parameters.values()), with_heads.clip_norm)

        alone = _OurSteps(samples, features_alone, config, device, steps + warmup)
        heads = _OurSteps(taught, with_heads, config, device, steps + warmup)
        # The last two again and alone, on the gradients that a plain step leaves.
        parts = (alone.step, forward_and_backward, heads.step, plain_step, clip, plain.optimizer.step)
        times = []
        for step in range(steps + warmup):
            if step == warmup:
                alone.loader.waited = heads.loader.waited = 0.0
            times.append([milliseconds(part, device) for part in parts])
        found = [median(column) for column in zip(*times[warmup:], strict=True)]
        again = dict(zip(("clipping", "AdamW"), found[4:], strict=True))
        waited = [1000 * ours.loader.waited / steps for ours in (alone, heads)]
        return [
            Row("fine-tuning step / forward and backward", found[0], found[1], again, waited[0]),
            Row("fine-tuning step with heads / plain step on features", found[2], found[3], {}, waited[1]),
        ]


class _OurSteps:
    """A training of its own backbone, step by step."""

    def __init__(self, samples: Samples, recipe: Recipe, config: BackboneConfig, device: str, steps: int) -> None:
        self.recipe, self.learner = recipe, make_learner(load_backbone(config, device), recipe)
        self.loader = Loader(samples, recipe, 0, 0, steps)
        self.batches = iter(self.loader)

    def step(self) -> None:
        _, batch = next(self.batches)
        training_step(self.learner, batch, self.recipe, 0.0)


def probes(data: list[str], iterations: int, repeats: int) -> list[Row]:
    """Probes of three arms and three seeds against one of each; the arms are two blocks of the backbone, and both."""
    images = [image for part in read_data(data) for image in part.images]
    config = {"one": BackboneConfig(), "other": BackboneConfig(layer=5)}
    encoded = EncodedImages(images, config)
    statistics = standardizations(encoded)
    many = [Arm("one", ("one",)), Arm("other", ("other",)), Arm("both", ("one", "other"))]
    only = EncodedImages(images, {"one": config["one"]})
    num_classes = len(read_data(data)[0].classes)
    protocol = replace(FAST, segmentation_iterations=iterations, depth_iterations=iterations)

    def segmentation(encoded: EncodedImages, arms: list[Arm], seeds: tuple[int, ...]) -> None:
        train_segmentation(encoded, statistics, arms, num_classes, seeds, protocol)

    def depth(encoded: EncodedImages, arms: list[Arm], seeds: tuple[int, ...]) -> None:
        train_depth(encoded, statistics, arms, seeds, protocol, 10.0)

    channels, patches = encoded.maps["one"].channels, encoded.maps["one"][0][..., 0].numel()
    tasks = (
        ("segmentation", segmentation, FAST.segmentation_windows * FAST.pixels_per_window, num_classes),
        ("depth", depth, FAST.depth_images * patches, FAST.depth_bins),
    )
    rows = []
    for name, train, samples, outputs in tasks:
        measured: tuple[Callable[[], object], ...] = (
            partial(train, encoded, many, (0, 1, 2)),
            partial(train, only, many[:1], (0,)),
            # Two blocks of channels, each in two arms, for three seeds.
            partial(products, samples, channels, 2 * outputs, 6, iterations),
            partial(products, samples, channels, outputs, 1, iterations),
        )
        times = [[milliseconds(run, "cpu") / iterations for run in measured] for _ in range(repeats + 1)][1:]
        together, one, *floors = (median(column) for column in zip(*times, strict=True))
        parts = dict(zip(("matrix products", "those of the reference"), floors, strict=True))
        rows.append(Row(f"{name} probes, 3 arms and 3 seeds / 1 and 1, per iteration", together, one, parts))
    return rows


def products(samples: int, channels: int, outputs: int, layers: int, iterations: int) -> None:
    """The matrix products of some linear layers' iterations: outputs, and gradients of weights."""
    features, weight = torch.ones(samples, channels), torch.ones(channels, outputs)
    for _ in range(layers * iterations):
        features.T @ (features @ weight)


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
    rows = finetuning_steps(arguments.exports, device, arguments.steps)
    rows += probes(arguments.train_data, arguments.iterations, arguments.repeats)
    title = f"{processor() if device == 'cpu' else torch.cuda.get_device_name()}, {torch.get_num_threads()} threads"
    table = Table(title=title)
    for column in ("", "ours (ms)", "reference (ms)", "ratio", "of it (ms)"):
        table.add_column(column)
    for row in rows:
        shown = row.parts_ms if row.waited_ms is None else {**row.parts_ms, "waiting for data": row.waited_ms}
        parts = ", ".join(f"{name} {value:.1f}" for name, value in shown.items())
        table.add_row(row.name, f"{row.ours_ms:.1f}", f"{row.reference_ms:.1f}", f"{row.ratio:.2f}", parts)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"title": title, "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
