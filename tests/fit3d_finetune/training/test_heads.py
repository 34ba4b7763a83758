"""Fine-tuning with heads of depth and normals: what teaches, what is kept, and that bad shape teaches nothing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fit3d_finetune
from fit3d_finetune.backbone.geometry import HEADS_FILE, GeometryHeads, load_geometry
from fit3d_finetune.backbone.hub import WEIGHTS_FILE, read_finetuned
from fit3d_finetune.targets.files import Target
from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.targets.scenes import view_refs
from fit3d_finetune.training.head_fit import fit_heads, typical_depth
from fit3d_finetune.training.loss import batch_loss
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.samples import Sample, Samples
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import load_backbone
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_finetune.scenes import BACKBONE, GRID, HEIGHT, WIDTH, make_gaussians, run_of, scene_of, store_of
from tests.fit3d_finetune.training.runs import cut_short

RECIPE = Recipe(lr=1e-3, epochs=2, clip_norm=1.0, depth_weight=1.0, normal_weight=0.5, weight_mix=0.5)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))


def test_heads_change_the_backbone_and_are_thrown_away_or_kept(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    taught = finetune(run_of(tmp_path / "taught", [scene], RECIPE))
    kept = finetune(run_of(tmp_path / "kept", [scene], RECIPE, keep_heads=True))
    plain = finetune(run_of(tmp_path / "plain", [scene], Recipe(lr=1e-3, epochs=2, clip_norm=1.0, weight_mix=0.5)))
    weights = [load_file(folder / WEIGHTS_FILE) for folder in (taught, kept, plain)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert not all(weights[0][name].equal(weights[2][name]) for name in weights[0])
    assert not (taught / HEADS_FILE).exists()
    with pytest.raises(InputError, match="--keep-heads"):
        load_geometry(taught)
    with pytest.raises(InputError, match="keep_heads"):
        finetune(run_of(tmp_path / "taught", [scene], RECIPE, keep_heads=True))
    # The plane lies 3 units from every camera, and the exports' unit is the capture's.
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    depth = fit3d_finetune.predict_depth(kept, image, focal=50.0)
    assert depth.shape == (1, *GRID)
    assert float(depth.log().mean()) == pytest.approx(math.log(3), abs=0.2)
    normals = load_geometry(kept).normals(image)
    assert (normals[..., 2] < -0.9).all(), "the plane faces the cameras"
    assert read_finetuned(kept).summary["run"]["recipe"]["depth_weight"] == 1.0


def test_a_run_with_heads_that_was_stopped_goes_on_exactly(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    whole = load_file(finetune(run_of(tmp_path / "whole", [scene], RECIPE)) / WEIGHTS_FILE)
    cut_short(run_of(tmp_path / "cut", [scene], RECIPE, save_seconds=0.0), 2)
    resumed = load_file(finetune(run_of(tmp_path / "cut", [scene], RECIPE, save_seconds=0.0)) / WEIGHTS_FILE)
    assert all(whole[name].equal(resumed[name]) for name in whole)


class Planted:
    """Samples whose depth and normals are linear in the backbone's tokens."""

    def __init__(self, heads: GeometryHeads, count: int) -> None:
        backbone, random = load_backbone(BACKBONE), torch.Generator().manual_seed(1)
        self.samples = []
        for _ in range(count):
            image = torch.rand(3, HEIGHT, WIDTH, generator=random)
            with torch.no_grad():
                depth, normals = heads(*backbone.forward_with_class_token(image[None]))
            values = torch.cat([depth[0, ..., None], normals[0], torch.ones(*GRID, 1)], dim=-1)
            weights = (torch.rand(GRID, generator=random) > 0.3).float()
            values[weights == 0] = 1e3  # what does not count is never looked at
            self.samples.append(Sample(image, torch.zeros(*GRID, 64), torch.ones(GRID), Target(values, weights)))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def class_token_cosine(folder: Path, images: list[torch.Tensor]) -> float:
    """Between the original's and the fine-tuned backbone's."""
    described = read_finetuned(folder)
    original, tuned = load_backbone(described.original), load_backbone(described.finetuned)
    with torch.no_grad():
        tokens = [network.forward_with_class_token(torch.stack(images))[1] for network in (original, tuned)]
    return float(torch.cosine_similarity(*tokens, dim=-1).mean())


def test_class_tokens_stay_where_they_were_if_asked_for(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    samples = Samples(view_refs([scene], "train"), store_of(tmp_path / "targets", scene))
    images = [samples[index].image for index in range(len(samples))]
    kept = []
    for weight in (0.0, 10.0):
        recipe = Recipe(lr=1e-3, epochs=10, clip_norm=1.0, class_token_weight=weight)
        kept.append(class_token_cosine(finetune(run_of(tmp_path / str(weight), [scene], recipe)), images))
    assert 1 - kept[1] < 0.3 * (1 - kept[0])


def test_a_store_gives_the_class_tokens_of_the_original(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    store = store_of(tmp_path / "targets", scene, kind="class-token")
    images = store_of(tmp_path / "targets", scene)
    backbone = load_backbone(BACKBONE)
    for ref in view_refs([scene], "train"):
        with torch.no_grad():
            _, expected = backbone.forward_with_class_token(images.image(ref.scene, ref.view)[None])
        found = store.get(ref.scene, ref.view).features
        assert found.shape == (1, 1, 64)
        torch.testing.assert_close(found[0, 0], expected[0], atol=2e-3, rtol=2e-3)


def test_the_closed_form_finds_planted_heads() -> None:
    torch.manual_seed(0)
    planted = GeometryHeads(64, depth=True, normals=True)
    for parameter in planted.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    found = fit_heads(load_backbone(BACKBONE), Planted(planted, 100))  # type: ignore[arg-type]
    unseen = Planted(planted, 101).samples[-1]
    with torch.no_grad():
        tokens = load_backbone(BACKBONE).forward_with_class_token(unseen.image[None])
        for ours, theirs in zip(found(*tokens), planted(*tokens), strict=True):
            torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)


def test_typical_depth_is_in_the_unit_of_the_capture_whatever_nerfstudio_scaled_it_by(tmp_path: Path) -> None:
    plain = scene_of(tmp_path / "plain")
    gaussians = plain.load()
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    transform = np.column_stack([2 * turn, np.ones(3)])  # as with an applied_transform that is no rotation
    info = dataclasses.replace(gaussians.scene, transform=transform, scale=0.125)
    dataclasses.replace(gaussians, scene=info).save(tmp_path / "scaled")
    [scaled] = find_scenes(tmp_path / "scaled")
    assert typical_depth([scaled]) == pytest.approx(4 * typical_depth([plain]))
    assert typical_depth([plain, scaled]) == pytest.approx(2 * typical_depth([plain]))
    # A length in the capture is as many of these units in the Gaussians' frame.
    points = info.to_capture(np.array([[0.0, 0, 0], [0, 0, 1]]))
    assert np.linalg.norm(points[1] - points[0]) == pytest.approx(info.unit_in_capture)


def test_damaged_heads_are_named(tmp_path: Path) -> None:
    folder = finetune(run_of(tmp_path / "kept", [scene_of(tmp_path)], RECIPE, keep_heads=True))
    tensors = load_file(folder / HEADS_FILE)
    save_file(tensors, folder / HEADS_FILE)  # without its metadata
    with pytest.raises(InputError, match=HEADS_FILE):
        load_geometry(folder)
    (folder / HEADS_FILE).write_bytes(b"nothing")
    with pytest.raises(InputError, match=HEADS_FILE):
        load_geometry(folder)


def with_floaters(clean: FeatureGaussians) -> FeatureGaussians:
    """A blob in front of every camera, a third of the way to the plane, where the other cameras see the plane."""
    random = torch.Generator().manual_seed(5)
    poses = torch.stack([torch.as_tensor(view.world_to_camera) for view in clean.scene.views]).float()
    centres = torch.linalg.inv(poses)[:, :3, 3]
    ahead = poses[:, 2, :3] + torch.tensor([0.12, 0.08, 0.0]) * torch.randn(len(poses), 3, generator=random)
    count = len(poses)
    added = dataclasses.replace(
        clean,
        means=torch.cat([clean.means, centres + ahead]),
        quats=torch.cat([clean.quats, torch.tensor([[1.0, 0, 0, 0]]).expand(count, -1)]),
        scales=torch.cat([clean.scales, torch.full((count, 3), 0.08)]),
        opacities=torch.cat([clean.opacities, torch.full((count,), 0.99)]),
        sh=torch.cat([clean.sh, torch.zeros(count, *clean.sh.shape[1:])]),
        features=torch.cat([clean.features, clean.features[:count]]),
    )
    return dataclasses.replace(added, scene=dataclasses.replace(clean.scene, num_gaussians=len(added)))


def test_a_scene_full_of_floaters_teaches_no_worse_with_heads_than_without(tmp_path: Path) -> None:
    clean = make_gaussians(tmp_path / "captures" / "plane")
    clean.save(tmp_path / "clean" / "plane")
    with_floaters(clean).save(tmp_path / "broken" / "plane")
    [whole], [broken] = (find_scenes(tmp_path / name) for name in ("clean", "broken"))
    shape, sound = (store_of(tmp_path / name, scene, kind="geometry") for name, scene in (("b", broken), ("c", whole)))
    spoilt = covered = 0
    for view in range(broken.num_views):
        found, truth = shape.get(0, view), sound.get(0, view)
        wrong = (found.features[..., 0] - truth.features[..., 0]).abs() > 0.3
        spoilt += int((wrong & (truth.weights > 0)).sum())
        covered += int((wrong & (found.weights > 0.5)).sum())
    assert spoilt > 5, "the floaters are seen"
    assert covered == 0, "and denied by the other views"

    features = store_of(tmp_path / "features", whole)
    losses = {}
    for name, weights in {"without": {}, "with": {"depth_weight": 1.0, "normal_weight": 1.0}}.items():
        recipe = Recipe(lr=1e-3, epochs=10, clip_norm=1.0, **weights)
        folder = finetune(run_of(tmp_path / name, [broken], recipe))
        backbone = load_backbone(read_finetuned(folder).finetuned)
        samples = Samples(view_refs([whole], "train"), features)
        with torch.no_grad():
            losses[name] = float(batch_loss(backbone, [samples[i] for i in range(len(samples))], "l1")[0])
    assert losses["with"] < 1.02 * losses["without"]
