"""What trained heads say of the test images, by the protocol of a run: each trains first, then predicts one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fit3d_finetune.probing.data.encoding import EncodedImages, standardizations
from fit3d_finetune.probing.depth import predict_depth, train_depth
from fit3d_finetune.probing.normals import fit_normals, predict_normals
from fit3d_finetune.probing.paper import depth as paper_depth
from fit3d_finetune.probing.paper import segmentation as paper_segmentation
from fit3d_finetune.probing.paper.encoding import CropEncoder
from fit3d_finetune.probing.plan import Probing, images_of
from fit3d_finetune.probing.protocol import FAST, FastProtocol, PaperProtocol
from fit3d_finetune.probing.segmentation import predict_segmentation, train_segmentation


def segment(
    probing: Probing, encoded_train: EncodedImages, encoded_test: EncodedImages, num_classes: int
) -> Iterator[tuple[int, list[list[Any]]]]:
    """Per test image its index and predicted classes, [arms][seeds] of [H, W]."""
    protocol, arms, seeds = probing.protocol, probing.arms, probing.seeds
    if isinstance(protocol, PaperProtocol):
        train, test = images_of(probing.train), images_of(probing.test)
        encoder = CropEncoder(probing.backbones, probing.device, final_norm=True)
        trained = paper_segmentation.train_segmentation(encoder, train, arms, num_classes, seeds, protocol)
        return paper_segmentation.predict_segmentation(encoder, trained, test, protocol)
    statistics = standardizations(encoded_train)
    heads = train_segmentation(encoded_train, statistics, arms, num_classes, seeds, protocol, probing.device)
    return predict_segmentation(heads, encoded_test, statistics)


def estimate_depth(
    probing: Probing, encoded_train: EncodedImages, encoded_test: EncodedImages
) -> Iterator[tuple[int, Any]]:
    """Per test image its index and depth [arms, seeds, H, W] in metres."""
    protocol, arms, seeds, farthest = probing.protocol, probing.arms, probing.seeds, probing.max_depth
    if isinstance(protocol, PaperProtocol):
        train, test, benchmark = images_of(probing.train), images_of(probing.test), probing.benchmark
        encoder = CropEncoder(probing.backbones, probing.device, final_norm=False)
        trained = paper_depth.train_depth(encoder, train, arms, seeds, protocol, benchmark, farthest)
        return paper_depth.predict_depth(encoder, trained, test, protocol, benchmark, farthest)
    statistics = standardizations(encoded_train)
    heads = train_depth(encoded_train, statistics, arms, seeds, protocol, farthest, device=probing.device)
    return predict_depth(heads, encoded_test, statistics, farthest)


def estimate_depth_of_patches(
    probing: Probing, encoded_train: EncodedImages, encoded_test: EncodedImages
) -> Iterator[tuple[int, Any]]:
    """The same by heads without class tokens."""
    # The published depth probe has class tokens: without them there is our schedule alone.
    protocol = probing.protocol if isinstance(probing.protocol, FastProtocol) else FAST
    arms, seeds, farthest = probing.arms, probing.seeds, probing.max_depth
    statistics = standardizations(encoded_train)
    heads = train_depth(
        encoded_train, statistics, arms, seeds, protocol, farthest, class_tokens=False, device=probing.device
    )
    return predict_depth(heads, encoded_test, statistics, farthest)


def estimate_normals(
    probing: Probing, encoded_train: EncodedImages, encoded_test: EncodedImages
) -> Iterator[tuple[int, Any]]:
    """Per test image its index and unit normals [arms, H, W, 3]."""
    statistics = standardizations(encoded_train)
    heads = fit_normals(encoded_train, statistics, probing.arms, probing.max_depth)
    return predict_normals(heads, encoded_test, statistics)
