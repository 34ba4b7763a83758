"""One probing run: encode once, train all probes, measure everything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.consistency import measure_consistency
from fit3d_finetune.probing.correspondences import PairSettings
from fit3d_finetune.probing.counts import Array, no_pixels
from fit3d_finetune.probing.data.checks import check_depth, count_labels, require_data, warn_of_shared_images
from fit3d_finetune.probing.data.encoding import EncodedImages
from fit3d_finetune.probing.data.labelled_images import LabelledImage, given_pairs, scenes_of
from fit3d_finetune.probing.data.tasks import VIEW_TASKS
from fit3d_finetune.probing.data.views import ConsistencyView
from fit3d_finetune.probing.depth import DepthScores
from fit3d_finetune.probing.matching import PAIRS as MATCHED_PAIRS
from fit3d_finetune.probing.matching import measure_matching
from fit3d_finetune.probing.metrics import counted_classes
from fit3d_finetune.probing.nearest_neighbours import nearest_neighbour_segmentation
from fit3d_finetune.probing.normals import NormalsScores
from fit3d_finetune.probing.other_angles import segmentation_from_other_angles
from fit3d_finetune.probing.plan import Probing, images_of
from fit3d_finetune.probing.predictions import (
    estimate_depth,
    estimate_depth_of_patches,
    estimate_normals,
    segment,
)
from fit3d_finetune.probing.results import Arm, Example, ProbeResults
from fit3d_finetune.probing.segmentation import SegmentationScores
from fit3d_finetune.probing.significance import compare_arms
from fit3d_ns.common.console import logger, progress
from fit3d_ns.features.backbone import backbone_fingerprint

EXAMPLES = 4


def probe(probing: Probing) -> tuple[ProbeResults, list[Example]]:
    """Run all tasks. Backbones run on `probing.device`, and there the heads of segmentation and depth are trained.

    Raises:
        InputError: a task lacks its labels, depth or cameras, or files are not fit for it.
    """
    train, test = images_of(probing.train), images_of(probing.test)
    classes = probing.test[0].classes
    labelled = check_files(probing)
    image_scenes = scenes_of(probing.test)
    scenes = list(dict.fromkeys(image_scenes))
    # The published mean goes over all classes (without those that are neither labelled nor predicted).
    counted = counted_classes(labelled.sum(axis=0)) if probing.protocol.name == "fast" else list(range(len(classes)))
    seconds: dict[str, float] = {}
    results = ProbeResults(
        protocol=probing.protocol.name,
        seeds=list(probing.seeds),
        arms=probing.arms,
        backbones={name: backbone_fingerprint(config) for name, config in probing.backbones.items()},
        train_data=[data.name for data in probing.train],
        test_data=[data.name for data in probing.test],
        test_images=[image.name for image in test],
        scenes=scenes,
        image_scenes=[scenes.index(name) for name in image_scenes],
        classes=list(classes),
        counted_classes=counted,
        labelled_pixels=labelled,
        versions={name: version(name) for name in ("fit3d", "torch", "timm")},
    )
    with _timed(seconds, "encoding"):
        used = train if probing.trains_on_whole_images else []
        encoded_train = EncodedImages(used, probing.backbones, probing.device, probing.cache_dir)
        encoded_test = EncodedImages(test, probing.backbones, probing.device, probing.cache_dir)
    examples = [_example(test[i], i, encoded_test, classes, probing) for i in _spread(len(test))]
    at = {index: place for place, index in enumerate(_spread(len(test)))}

    # First: views that show nothing in common are found before hours of training.
    views = geometry_of(probing) if {*VIEW_TASKS} & {*probing.tasks} else []
    among = given_pairs(probing.test)
    if "consistency" in probing.tasks:
        with _timed(seconds, "consistency"):
            maps = {arm.name: (lambda index, arm=arm: _side_by_side(arm, encoded_test, index)) for arm in probing.arms}
            consistency = measure_consistency(views, maps, PairSettings(among=among))
            results = replace(results, consistency=consistency)
    if "matching" in probing.tasks:
        with _timed(seconds, "matching"):
            settings = replace(MATCHED_PAIRS, among=among)
            matched = measure_matching(views, list(probing.backbones), encoded_test.features, probing.arms, settings)
            results = replace(results, matching=matched)
    if "nearest-neighbours-across" in probing.tasks:
        with _timed(seconds, "nearest neighbours from other angles"):
            read = partial(_labelled_map, encoded_test, test, len(classes))
            across, pixels = segmentation_from_other_angles(
                views, read, probing.arms, len(classes), results.image_scenes, results.counted_classes
            )
        results = replace(results, nearest_neighbours_across=across, pixels_across=pixels)
    if "segmentation" in probing.tasks:
        with _timed(seconds, "segmentation"):
            scores = SegmentationScores(probing.arms, probing.seeds, labelled)
            for index, predicted in segment(probing, encoded_train, encoded_test, len(classes)):
                scores.add(index, test[index].labels(len(classes)), predicted)
                if index in at:
                    firsts = {arm.name: predicted[a][0] for a, arm in enumerate(probing.arms)}
                    examples[at[index]].predicted_labels.update(firsts)
        segmented = scores.results(results.image_scenes, len(scenes), results.counted_classes)
        results = replace(results, segmentation=segmented)
    if "depth" in probing.tasks:
        with _timed(seconds, "depth"):
            depths = DepthScores(probing.arms, probing.seeds, len(test), probing.max_depth)
            for index, predicted_depth in estimate_depth(probing, encoded_train, encoded_test):
                depths.add(index, probing.benchmark.scored(test[index].depth()), predicted_depth)
                if index in at:
                    first = {arm.name: predicted_depth[a, 0] for a, arm in enumerate(probing.arms)}
                    examples[at[index]].predicted_depth.update(first)
        results = replace(results, depth=depths.results(results.image_scenes, len(scenes)))
    if "depth-patches" in probing.tasks:
        with _timed(seconds, "depth without class token"):
            plain = DepthScores(probing.arms, probing.seeds, len(test), probing.max_depth)
            for index, predicted_depth in estimate_depth_of_patches(probing, encoded_train, encoded_test):
                plain.add(index, probing.benchmark.scored(test[index].depth()), predicted_depth)
        results = replace(results, depth_patches=plain.results(results.image_scenes, len(scenes)))
    if "normals" in probing.tasks:
        with _timed(seconds, "normals"):
            angles = NormalsScores(probing.arms, probing.seeds, len(test))
            for index, predicted_normals in estimate_normals(probing, encoded_train, encoded_test):
                normals = test[index].normals(probing.max_depth)
                angles.add(index, normals, predicted_normals)
                if index in at:
                    first = {arm.name: predicted_normals[a] for a, arm in enumerate(probing.arms)}
                    examples[at[index]].predicted_normals.update(first)
                    examples[at[index]] = replace(examples[at[index]], normals=normals)
        results = replace(results, normals=angles.results(results.image_scenes, len(scenes)))
    if "nearest-neighbours" in probing.tasks:
        with _timed(seconds, "nearest neighbours"):
            found = nearest_neighbour_segmentation(
                (_labelled_map(encoded_train, train, len(classes), index) for index in range(len(train))),
                (_labelled_map(encoded_test, test, len(classes), index) for index in range(len(test))),
                probing.arms,
                labelled,
                results.image_scenes,
                results.counted_classes,
            )
        results = replace(results, nearest_neighbours=found)
    return replace(results, comparisons=compare_arms([[results]]), seconds=seconds), examples


# ---- what tasks read


def geometry_of(probing: Probing) -> list[ConsistencyView]:
    """Depth and cameras of the test images."""
    places = list(zip(images_of(probing.test), scenes_of(probing.test), strict=True))
    with progress("images") as bar:
        return [image.consistency_view(scene) for image, scene in bar.track(places, description="Depth and cameras")]


def _labelled_map(
    encoded: EncodedImages, images: list[LabelledImage], num_classes: int, index: int
) -> tuple[dict[str, Tensor], Any]:
    return {name: encoded.features(name, index) for name in encoded.maps}, images[index].labels(num_classes)


def _side_by_side(arm: Arm, encoded: EncodedImages, index: int) -> Tensor:
    """The maps of an arm's backbones as one, [h, w, sum of C]; of unit length each where they are several.

    So each counts the same in the cosine of the whole, whatever the length of its features; fine-tuning towards
    averaged features makes them shorter, and as they are the original's would decide alone. A map beside itself has the
    cosines of the map alone.
    """
    maps = [encoded.features(name, index) for name in dict.fromkeys(arm.backbones)]
    return maps[0] if len(maps) == 1 else torch.cat([F.normalize(map, dim=-1) for map in maps], dim=-1)


# ---- checks and examples


def check_files(probing: Probing) -> Array:
    """Read all files that the tasks need; labelled test pixels [images, classes], [0, 0] where no task needs labels.

    Raises:
        InputError: a task lacks its labels, depth or cameras, or files are not fit for it.
    """
    require_data(probing.tasks, probing.train, probing.test)
    if {*probing.tasks} - {*VIEW_TASKS}:
        warn_of_shared_images(probing.train, probing.test)
    if probing.asks_for(lambda task: task.depth):
        probing.benchmark.check([*probing.train, *probing.test])
        check_depth(probing.train, probing.max_depth, "training")
        check_depth(probing.test, probing.max_depth, "test")
    if not probing.asks_for(lambda task: task.labels):
        return no_pixels()
    num_classes = len(probing.test[0].classes)
    if probing.asks_for(lambda task: task.labels and task.trains):
        count_labels(probing.train, num_classes, "training")
    return count_labels(probing.test, num_classes, "test")


def _example(
    image: LabelledImage, index: int, encoded: EncodedImages, classes: Sequence[str], probing: Probing
) -> Example:
    with_labels = classes and image.label_path is not None
    return Example(
        name=image.name,
        image=image.image(),
        features={name: encoded.features(name, index) for name in encoded.maps},
        labels=image.labels(len(classes)) if with_labels else None,
        depth=image.depth() if image.depth_path is not None else None,
    )


def _spread(count: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, count - 1, min(EXAMPLES, count))})


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
    logger.info("%s: %.0f s", name, seconds[name])
