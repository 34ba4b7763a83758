"""Samples: image and target change together, and seed and step alone decide what a step sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fit3d_finetune.targets.scenes import Scene, ViewRef, view_refs
from fit3d_finetune.targets.store import TargetKind
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.samples import (
    Augmentation,
    Loader,
    Sample,
    Samples,
    crop,
    flip,
)
from fit3d_ns.features.patch_grid import pool_to_patch_grid
from tests.fit3d_finetune.scenes import scene_of, store_of

PATCH, ROWS, COLUMNS = 8, 12, 16


def colours(sample_or_image: Sample | torch.Tensor) -> torch.Tensor:
    """The image's mean colour in every patch, [h, w, 3]."""
    image = sample_or_image.image if isinstance(sample_or_image, Sample) else sample_or_image
    return pool_to_patch_grid(image.permute(1, 2, 0), (ROWS, COLUMNS))[0]


def augmented(sample: Sample, recipe: Recipe, random: torch.Generator) -> Sample:
    return Augmentation.draw(recipe, random).of(sample)


def colour_sample() -> Sample:
    """A smooth, unsymmetrical image whose target is its own mean colour in every patch."""
    y = torch.linspace(0, 1, ROWS * PATCH)[:, None].expand(-1, COLUMNS * PATCH)
    x = torch.linspace(0, 1, COLUMNS * PATCH)[None].expand(ROWS * PATCH, -1)
    image = torch.stack([x, y, 0.5 + 0.4 * torch.sin(5 * x + 3 * y)])
    return Sample(image, colours(image), torch.ones(ROWS, COLUMNS))


@pytest.mark.parametrize("crop_scale", [1.0, 0.8, 0.4])
@pytest.mark.parametrize("seed", range(8))
def test_after_augmentation_the_target_still_belongs_to_the_image(crop_scale: float, seed: int) -> None:
    sample = augmented(colour_sample(), Recipe(crop_scale=crop_scale), torch.Generator().manual_seed(seed))
    assert sample.image.shape == colour_sample().image.shape
    torch.testing.assert_close(sample.weights, torch.ones(ROWS, COLUMNS))
    error = (sample.features - colours(sample)).abs().mean()
    assert error < 0.008
    assert (sample.features.flip(1) - colours(sample)).abs().mean() > 5 * error + 0.05


def test_a_mirror_image_keeps_its_class_token_and_a_crop_has_none() -> None:
    token = torch.arange(4.0)
    sample = dataclasses.replace(colour_sample(), class_token=token)
    assert flip(sample).class_token is token
    assert crop(sample, 0.5, 0.0, 0.0).class_token is None


def test_half_of_the_samples_are_flipped() -> None:
    random = torch.Generator().manual_seed(0)
    original = colour_sample()
    flipped = [not torch.equal(augmented(original, Recipe(), random).image, original.image) for _ in range(200)]
    assert 70 < sum(flipped) < 130


def test_crops_are_as_large_as_the_recipe_says_and_lie_inside() -> None:
    random = torch.Generator().manual_seed(0)
    for _ in range(50):
        x, y, _ = augmented(colour_sample(), Recipe(crop_scale=0.5), random).image
        for ramp in (x, y):  # a ramp from 0 to 1 across the whole image
            side = float(ramp.max() - ramp.min())
            assert 0.5 - 0.03 <= side <= 1.0


@pytest.mark.parametrize(("scale", "x", "y"), [(0.5, 0.5, -0.5), (0.7, 0.1, 0.3), (0.3, -0.6, 0.0)])
def test_patches_that_do_not_count_never_mix_into_a_crop(scale: float, x: float, y: float) -> None:
    clean = colour_sample()
    weights = clean.weights.clone()
    weights[:, : COLUMNS // 2 + 2] = 0
    weights[4] = 0
    spoilt = Sample(clean.image, torch.where(weights[..., None] > 0, clean.features, 1e4), weights)
    sample = crop(spoilt, scale, x, y)
    counted = sample.weights > 0
    everything_counts = crop(clean, scale, x, y)
    if counted.any():
        error = (sample.features - everything_counts.features)[counted].abs().max()
        assert error < 1.5 / min(ROWS, COLUMNS), "at most the neighbour's colour instead of a mixture"
    assert (sample.weights[~counted] == 0).all()


@pytest.fixture
def samples(tmp_path: Path, scenes: list[Scene]) -> Samples:
    return Samples(view_refs(scenes, "train"), store_of(tmp_path, *scenes))


def equal(one: list[Sample], other: list[Sample]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("image", "features", "weights")
    )


RECIPE = Recipe(batch_size=3, crop_scale=0.6)


def test_loading_ahead_gives_what_loading_directly_gives(samples: Samples) -> None:
    loader = Loader(samples, RECIPE, seed=3, start=0, stop=7)
    loaded = dict(loader)
    assert list(loaded) == list(range(7))
    assert all(equal(loaded[step], loader.load(step)) for step in range(7))
    assert loader.waited > 0


def test_a_loader_that_starts_later_goes_on_as_the_first(samples: Samples) -> None:
    whole = dict(Loader(samples, RECIPE, seed=3, start=0, stop=7, ahead=5))
    rest = dict(Loader(samples, RECIPE, seed=3, start=4, stop=7, ahead=0))
    assert list(rest) == [4, 5, 6]
    assert all(equal(whole[step], rest[step]) for step in rest)


def test_another_seed_gives_another_augmentation(samples: Samples) -> None:
    one, other = (Loader(samples, RECIPE, seed, 0, 1).load(0) for seed in (0, 1))
    assert not equal(one, other)


def test_a_loader_that_is_left_early_stops(samples: Samples) -> None:
    for step, _ in Loader(samples, RECIPE, seed=0, start=0, stop=10**9):
        if step == 2:
            break


def test_an_error_while_loading_reaches_the_training(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples.targets, "image", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(iter(Loader(samples, RECIPE, seed=0, start=0, stop=3)))


@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
def test_a_share_of_the_original_features_stays_in_the_target(tmp_path: Path, scenes: list[Scene], keep: float) -> None:
    rendered, original = store_of(tmp_path, *scenes), store_of(tmp_path, *scenes, kind="original")
    refs = view_refs(scenes, "train")
    sample = Samples(refs, rendered, original, keep)[5]
    one, other = (store.get(refs[5].scene, refs[5].view).features for store in (rendered, original))
    torch.testing.assert_close(sample.features, (1 - keep) * one + keep * other)


@pytest.mark.parametrize("kind", ["gaussians", "mirror"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_position_term_stays_where_it_is_when_an_image_is_mirrored(
    tmp_path: Path, kind: TargetKind, share: float
) -> None:
    scene = scene_of(tmp_path, view_dependence="position")
    sample = Samples([ViewRef(0, 2)], store_of(tmp_path, scene, kind=kind), position_share=share)[0]
    position = scene.position_map(2)
    assert position is not None
    for each, content in [(sample, sample.features), (flip(sample), sample.features.flip(1))]:
        torch.testing.assert_close(each.target, content + share * position)
    cropped = crop(sample, 0.5, 0.2, 0.1)
    torch.testing.assert_close(cropped.target, cropped.features + share * position)


def test_the_share_of_original_features_has_the_position_term_once(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, view_dependence="position")
    rendered, original = store_of(tmp_path, scene), store_of(tmp_path, scene, kind="original")
    sample = Samples([ViewRef(0, 2)], rendered, original, 1.0, position_share=1.0)[0]
    torch.testing.assert_close(sample.target, original.get(0, 2).features)


def test_training_views_are_those_of_the_training_split(scenes: list[Scene]) -> None:
    assert [(ref.scene, ref.view) for ref in view_refs(scenes, "train")] == [
        (s, v) for s in (0, 1) for v in (1, 2, 3, 4)
    ]
    assert [(ref.scene, ref.view) for ref in view_refs(scenes, "eval")] == [(0, 0), (1, 0)]
