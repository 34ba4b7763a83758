"""Training samples: an image with its target, flipped and cropped together, in an order that a step number decides.

Which views a step sees and how they are augmented follows from the seed and the step alone, so a resumed run goes on
exactly where it stopped, whatever was prefetched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.targets.files import Target
from fit3d_finetune.targets.scenes import ViewRef
from fit3d_finetune.targets.store import TargetStore
from fit3d_finetune.training.order import Order, generator
from fit3d_finetune.training.recipe import Recipe
from fit3d_ns.features.patch_grid import counted


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and what the backbone should give for it."""

    image: Tensor
    """[3, H, W] in 0..1, H and W multiples of the patch size."""
    features: Tensor
    """[h, w, C], without the position term where there is one."""
    weights: Tensor
    """[h, w] in 0..1."""
    geometry: Target | None = None
    """Log canonical depth, normals and their weights [h, w, 5], and how much each patch counts; None: not taught."""
    class_token: Tensor | None = None
    """[C] that the original backbone gives for the image; None: it may change."""
    gram: Target | None = None
    """Features of the original at twice the resolution, on the patch grid: those between which the cosines are to
    stay; None: they may change."""
    original: Target | None = None
    """Features of the original, to stay near to; None: anywhere."""
    position: Tensor | None = None
    """[h, w, C] to add to the features: it belongs to the places in the image, whatever is shown there; None: zero."""

    @property
    def target(self) -> Tensor:
        """[h, w, C] that the backbone should give."""
        return self.features if self.position is None else self.features + self.position


class Samples:
    """Views of some scenes as samples.

    Args:
        refs: the views, by indices into the scenes of `targets`.
        targets: of the scenes.
        originals: the views' own features, for `keep_original`; None where that is 0.
        keep_original: share of the own features in the target.
        position_share: how much of the position term is in the target, where the scenes know it.
        geometry: the views' depth and normals; None where they are not taught.
        class_tokens: the original's class tokens of the views; None where they may change.
        grams: the original's features at twice the resolution; None where cosines between patches may change.
        anchors: the views' own features, to stay near to; None where there is no need to.
    """

    def __init__(
        self,
        refs: Sequence[ViewRef],
        targets: TargetStore,
        originals: TargetStore | None = None,
        keep_original: float = 0.0,
        position_share: float = 0.0,
        geometry: TargetStore | None = None,
        class_tokens: TargetStore | None = None,
        grams: TargetStore | None = None,
        anchors: TargetStore | None = None,
    ) -> None:
        self.refs = refs
        self.geometry, self.class_tokens, self.grams, self.anchors = geometry, class_tokens, grams, anchors
        self.targets, self.originals = targets, originals
        self.keep_original, self.position_share = keep_original, position_share

    def of(self, refs: Sequence[ViewRef]) -> Samples:
        """Other views of the same scenes, with their features alone."""
        return Samples(refs, self.targets, self.originals, self.keep_original, self.position_share)

    def __len__(self) -> int:
        return len(self.refs)

    @property
    def stores(self) -> set[TargetStore]:
        """All that samples are read from; one may serve twice."""
        stores = {self.targets, self.originals, self.geometry, self.class_tokens, self.grams, self.anchors}
        return {store for store in stores if store is not None}

    @property
    def target_seconds(self) -> float:
        """Spent on targets so far."""
        return sum(store.seconds for store in self.stores)

    def __getitem__(self, index: int) -> Sample:
        """The sample as it is, without augmentation."""
        ref = self.refs[index]
        target = self.targets.get(ref.scene, ref.view)
        features = target.features
        wanted = self.originals is not None or self.position_share > 0
        position = self.targets.scenes[ref.scene].position_map(ref.view) if wanted else None
        if self.originals is not None:
            own = self.originals.get(ref.scene, ref.view).features
            features = torch.lerp(features, own if position is None else own - position, self.keep_original)
        geometry, gram, original = (
            None if store is None else store.get(ref.scene, ref.view)
            for store in (self.geometry, self.grams, self.anchors)
        )
        token = None if self.class_tokens is None else self.class_tokens.get(ref.scene, ref.view).features[0, 0]
        image = self.targets.image(ref.scene, ref.view)
        position = None if position is None else self.position_share * position
        return Sample(image, features, target.weights, geometry, token, gram, original, position)


@dataclass(frozen=True)
class Augmentation:
    """What is done to image and target alike."""

    flipped: bool
    """With p = 0.5."""
    cut: tuple[float, float, float] | None
    """Scale and centre of a `crop`."""

    @staticmethod
    def draw(recipe: Recipe, random: torch.Generator) -> Augmentation:
        """As the recipe says; takes as many random numbers whatever they are."""
        flipped, cut = bool(torch.rand((), generator=random) < 0.5), None
        if recipe.crop_scale < 1:
            scale, x, y = torch.rand(3, generator=random).tolist()
            scale = recipe.crop_scale + (1 - recipe.crop_scale) * scale
            cut = (scale, (2 * x - 1) * (1 - scale), (2 * y - 1) * (1 - scale))
        return Augmentation(flipped, cut)

    def of(self, sample: Sample) -> Sample:
        """The augmented sample."""
        sample = flip(sample) if self.flipped else sample
        return sample if self.cut is None else crop(sample, *self.cut)


def flip(sample: Sample) -> Sample:
    """The mirror image: normals point the other way along x; depth, focal length and class token stay."""

    def mirrored(target: Target | None) -> Target | None:
        return None if target is None else Target(target.features.flip(1), target.weights.flip(1))

    geometry = mirrored(sample.geometry)
    if geometry is not None:
        sides = geometry.features.new_tensor([1.0, -1.0, 1.0, 1.0, 1.0])
        geometry = Target(geometry.features * sides, geometry.weights)
    return Sample(
        image=sample.image.flip(-1),
        features=sample.features.flip(1),
        weights=sample.weights.flip(1),
        geometry=geometry,
        class_token=sample.class_token,
        gram=mirrored(sample.gram),
        original=mirrored(sample.original),
        position=sample.position,
    )


def crop(sample: Sample, scale: float, x: float, y: float) -> Sample:
    """Cut out the part with sides `scale` times the image's, centred at (x, y) in -1..1, and enlarge it to full size.

    The target is resampled bilinearly at the centres of the new patches; those that fall on patches that do not
    count do not count either. The crop has a longer lens, and looks as if from nearer by. Its class token is free: the
    original's is known of the whole image alone.
    """
    theta = torch.tensor([[[scale, 0.0, x], [0.0, scale, y]]])

    def cut(values: Tensor, mode: str) -> Tensor:
        grid = F.affine_grid(theta, [1, 1, *values.shape[-2:]], align_corners=False)
        return F.grid_sample(values[None], grid, mode=mode, padding_mode="border", align_corners=False)[0]

    def cut_target(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        # Normalised by the weights, so that features of patches that do not count never mix in.
        total = cut(weights[None], "bilinear")
        mixed = cut(features.permute(2, 0, 1) * weights, "bilinear") / total.clamp_min(1e-6)
        return mixed.permute(1, 2, 0), total[0]

    def cut_features(target: Target) -> Target:
        features, share = cut_target(target.features, target.weights)
        return Target(features, counted(share))

    target = cut_features(Target(sample.features, sample.weights))
    geometry = sample.geometry
    if geometry is not None:
        values, confidence = cut_target(geometry.features, geometry.weights)
        log_depth, normals = values[..., :1] + math.log(scale), F.normalize(values[..., 1:4], dim=-1)
        geometry = Target(torch.cat([log_depth, normals, values[..., 4:]], dim=-1), confidence)
    return Sample(
        image=cut(sample.image, "bicubic").clamp(0, 1),
        features=target.features,
        weights=target.weights,
        geometry=geometry,
        gram=None if sample.gram is None else cut_features(sample.gram),
        original=None if sample.original is None else cut_features(sample.original),
        position=sample.position,
    )


Choice = tuple[int, Augmentation]
"""A sample by its index, and what is done to it."""


class Loader:
    """Samples of consecutive steps, loaded ahead in one background thread.

    Iterating gives (step, list of samples). `waited` counts the seconds that the consumer had to wait. `part` says
    which samples of a step this process has, out of all, which are drawn the same in every process.
    """

    def __init__(
        self,
        samples: Samples,
        recipe: Recipe,
        seed: int,
        start: int,
        stop: int,
        ahead: int = 2,
        part: Callable[[Sequence[Choice]], list[Choice]] = list,
    ) -> None:
        self.samples, self.recipe, self.seed, self.part = samples, recipe, seed, part
        self.order = Order(len(samples), recipe, seed, [ref.scene for ref in samples.refs])
        self.start, self.stop, self.ahead = start, stop, ahead
        self.waited = 0.0

    def load(self, step: int) -> list[Sample]:
        """The augmented samples of a step."""
        recipe = self.recipe
        random = generator(self.seed, step, 1)
        chosen = [(index, Augmentation.draw(recipe, random)) for index in self.order.of(step)]
        return [augmentation.of(self.samples[index]) for index, augmentation in self.part(chosen)]

    def __iter__(self) -> Iterator[tuple[int, list[Sample]]]:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="samples") as pool:
            pending: dict[int, Future[list[Sample]]] = {}
            try:
                for step in range(self.start, self.stop):
                    for next_step in range(step, min(step + self.ahead + 1, self.stop)):
                        if next_step not in pending:
                            pending[next_step] = pool.submit(self.load, next_step)
                    start = time.perf_counter()
                    loaded = pending.pop(step).result()
                    self.waited += time.perf_counter() - start
                    yield step, loaded
            finally:
                for future in pending.values():
                    future.cancel()
