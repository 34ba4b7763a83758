"""What a lifting would take, found by lifting a few of its views, of which nothing is kept."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from fit3d_ns.common.choices import FeatureStorage
from fit3d_ns.common.estimate import Estimate, Room, Step, peak_memory, rehearsal, spread
from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.features.position import ViewDependence
from fit3d_ns.features.rate import measure_encoding
from fit3d_ns.lifting.maps import held_out_cosine, lift_feature_maps
from fit3d_ns.lifting.operator import SparseOperator, patch_operator
from fit3d_ns.lifting.options import LiftOptions
from fit3d_ns.lifting.scene import SPLITS, LiftScene, photos_of, posed_maps, require_training_views
from fit3d_ns.scene.splats import TENSORS

FEW, MORE = 2, 6
"""Views of the two rehearsals, whose difference is what a view takes."""
_ENTRY_BYTES = 16
"""Of the operator's entries, by rows and by columns."""
_COPIES = 5
"""Of the maps as coordinates, in float32: targets, what is rendered, what is left, and what comes of either."""


def preview_lift(
    scene: LiftScene,
    config: BackboneConfig,
    feature_dim: int | None,
    options: LiftOptions,
    device: str,
    cache_dir: Path | None,
    view_dependence: ViewDependence,
    storage: FeatureStorage,
    output: Path,
) -> Estimate:
    """Look at a lifting as its start would, and lift a few views; the arguments of `lift_scene`, and what is written.

    Raises:
        InputError: as `lift_scene`, but for what only the whole shows (whether cameras see the Gaussians).
    """
    require_training_views(scene)
    train, held_out = ([view for view in scene.views if view.split == split] for split in SPLITS)
    photos = photos_of(scene)
    encoding = measure_encoding(photos, config, device, cache_dir)
    splats = scene.splats.to(device)
    taken: dict[int, float] = {}
    entries = held_out_seconds = 0.0
    with rehearsal() as folder:
        # The first time also compiles, or reads what was compiled.
        for turn, count in enumerate((FEW, FEW, MORE, FEW, MORE)):
            few = tuple(train[index] for index in spread(len(train), count))
            posed = posed_maps(dataclasses.replace(scene, views=few), "train", config, device, folder)
            start = time.perf_counter()
            lifted = lift_feature_maps(splats, posed.cameras, posed.maps, feature_dim, options, view_dependence)
            seconds = time.perf_counter() - start
            taken[len(few)] = seconds if turn < 2 else min(seconds, taken.get(len(few), seconds))
            start = time.perf_counter()
            held_out_cosine(splats, lifted, posed.cameras[:1], posed.maps[:1])
            held_out_seconds = time.perf_counter() - start
        memory = float(peak_memory(device))
        cells = sum(view.grid[0] * view.grid[1] for view in posed.cameras) / len(few)
        operator = patch_operator(splats, posed.cameras)
        if isinstance(operator, SparseOperator):
            entries = operator.matrix.nnz / len(few)
            more = max(0, len(train) - len(few))
            memory += more * (_ENTRY_BYTES * entries + 4 * _COPIES * cells * len(lifted.space.scales))
    each, fixed = per_view(taken)
    channels = feature_dim or encoding.channels
    tensors = sum(getattr(splats, name).numel() * 4 for name in TENSORS)
    ply = tensors + 12 * len(splats)  # the same and normals
    size = tensors + ply + len(splats) * channels * (1 if storage == "int8" else 2)
    steps = [
        encoding.step(),
        Step(
            f"solving for {channels} channels of {len(splats)} Gaussians from {len(train)} views",
            fixed + len(train) * each,
            f"{each:.2f} s a view and {fixed:.1f} s, measured now on {FEW} and {max(taken)} views",
        ),
    ]
    if held_out:
        steps.append(
            Step(
                f"comparing with {len(held_out)} held-out views",
                len(held_out) * held_out_seconds,
                f"{held_out_seconds:.2f} s a view, measured now on one",
            )
        )
    growth = f", and {_ENTRY_BYTES * entries / 1e6:.1f} MB for the weights of each further view" if entries else ""
    return Estimate(
        plan=(
            ("Scene", f"{scene.name}, {len(splats)} Gaussians"),
            ("Views", f"{len(train)} to lift from, {len(held_out)} held out"),
            ("Backbone", f"{config.name}, on {device}"),
            ("Output", f"{output}"),
        ),
        steps=tuple(steps),
        memory=memory,
        memory_rate=f"measured now on {max(taken)} views{growth}",
        rooms=(Room("export", output.parent, size), encoding.room(cache_dir)),
        device=device,
    )


def per_view(taken: dict[int, float]) -> tuple[float, float]:
    """Seconds of a view, and of what does not depend on how many there are, from times by numbers of views."""
    (few, first), *more = sorted(taken.items())
    if not more:
        return first / few, 0.0
    count, last = more[-1]
    each = max(0.0, last - first) / (count - few)
    return each, max(0.0, last - count * each)
