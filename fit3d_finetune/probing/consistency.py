"""Multi-view consistency of feature maps: do pixels that show the same point have the same features?

After Probe3D (El Banani et al., CVPR 2024, section 4.2): pairs of views binned by the angle of the rotation between
them. Two measures, each first averaged over a pair's correspondences, then over a scene's pairs in a bin, so that every
pair of a scene counts the same, and then over scenes:

- cosine: between the features of the two pixels, read by bilinear interpolation of the patch maps;
- recall: the pixel's nearest neighbour (by cosine) among all patches of the other view has its centre within
  `recall_patches` patches (Euclidean) of the true place.

Unlike Probe3D, which keeps each pair's most distinctive matches and so measures every backbone on other pixels, the
recall is over all sampled pixels that both views see: the same for every arm. No labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.correspondences import PairSettings, ViewPair, find_pairs
from fit3d_finetune.probing.data.views import Array, ConsistencyView
from fit3d_finetune.probing.results import ConsistencyResult
from fit3d_finetune.probing.sampling import sample_features
from fit3d_finetune.probing.scene_figures import mean_over_scenes, value_sums
from fit3d_ns.common.console import logger, progress

FeatureMaps = Callable[[int], Tensor]
"""From a view's index to its features [h, w, C], on any device."""

RECALL_PATCHES = 2.0


def measure_consistency(
    views: Sequence[ConsistencyView],
    arms: Mapping[str, FeatureMaps],
    settings: PairSettings | None = None,
    recall_patches: float = RECALL_PATCHES,
) -> dict[str, ConsistencyResult]:
    """Measure every arm on the same pairs and pixels.

    Maps are asked for pair by pair and not kept: memory holds two at a time.

    Args:
        views: geometry of the test views, of one or more scenes.
        arms: by name, the feature maps of these views.
        settings: which pairs and pixels; the default bins have 30 to 60 degrees as one.
        recall_patches: how far off a match may be, in patches.

    Raises:
        InputError: no two views see common points.
    """
    settings = settings or PairSettings()
    scenes = list(dict.fromkeys(view.scene for view in views))
    pairs = find_pairs(views, settings)
    places = [scenes.index(views[pair.first].scene) for pair in pairs]
    bins = len(settings.angle_edges) - 1
    counts = [sum(pair.bin == index for pair in pairs) for index in range(bins)]
    points = sum(len(pair.places_first) for pair in pairs)
    logger.info("consistency: %d pairs of views, %d pixels; pairs per bin of angles %s", len(pairs), points, counts)
    results = {}
    with progress("pairs") as bar:
        for name, maps in arms.items():
            task = bar.add_task(f"consistency of {name}", total=len(pairs))
            scores = np.zeros((len(pairs), 2))
            held: tuple[int, Tensor] | None = None  # pairs come ordered by their first view
            for index, pair in enumerate(pairs):
                first = held[1] if held and held[0] == pair.first else maps(pair.first)
                held = (pair.first, first)
                scores[index] = compare_maps(first, maps(pair.second), pair, recall_patches)
                bar.advance(task)
            results[name] = _summarize(pairs, places, scores, settings, recall_patches)
    return results


def compare_maps(
    first: Tensor, second: Tensor, pair: ViewPair, recall_patches: float = RECALL_PATCHES
) -> tuple[float, float]:
    """Mean cosine (-1..1) and correspondence recall (0..1) of one pair of views.

    Args:
        first: features of the first view, [h, w, C].
        second: features of the second view, [h', w', C].
        pair: their correspondences.
        recall_patches: how far off a match may be, in patches of the second view.
    """
    h, w, C = second.shape
    queries = F.normalize(sample_features(first, pair.places_first), dim=-1)
    targets = F.normalize(sample_features(second, pair.places_second), dim=-1)
    cosine = (queries * targets).sum(dim=-1).mean()
    patches = F.normalize(second.to(queries.dtype).reshape(h * w, C), dim=-1)
    matches = (queries @ patches.T).argmax(dim=-1).cpu().numpy()
    centres = np.stack([matches % w + 0.5, matches // w + 0.5], axis=-1)
    errors = np.linalg.norm(centres - pair.places_second * (w, h), axis=-1)
    return float(cosine), float((errors <= recall_patches).mean())


def _summarize(
    pairs: Sequence[ViewPair], scenes: list[int], scores: Array, settings: PairSettings, recall_patches: float
) -> ConsistencyResult:
    bins = np.array([pair.bin for pair in pairs])
    count = len(settings.angle_edges) - 1
    of_bins = [np.where(bins == index, scores.T, np.nan) for index in range(count)]
    means = [mean_over_scenes(value_sums(values, scenes, max(scenes) + 1)) for values in of_bins]
    return ConsistencyResult(
        angle_edges=list(settings.angle_edges),
        cosine=[mean[0] for mean in means],
        recall=[mean[1] for mean in means],
        pairs=[int((bins == index).sum()) for index in range(count)],
        recall_patches=recall_patches,
        pair_scenes=scenes,
        pair_bins=bins.tolist(),
        pair_recall=scores[:, 1].tolist(),
    )
