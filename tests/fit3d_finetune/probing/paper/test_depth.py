"""The published depth probe: one class token, a planted depth that is learned, mirror images, benchmarks' regions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from fit3d_finetune.probing.data.depth_benchmarks import DEPTH_BENCHMARKS, DepthBenchmark
from fit3d_finetune.probing.depth import DepthScores
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.paper.depth import predict_depth, train_depth, with_first_class_token
from fit3d_finetune.probing.protocol import PAPER, PaperProtocol
from fit3d_finetune.probing.results import Arm
from tests.fit3d_finetune.probing.paper.encoders import ColourEncoder
from tests.fit3d_finetune.probing.scenes import FakeImage

ARMS = [Arm("colour", ("colour",)), Arm("noise", ("noise",)), Arm("both", ("colour", "noise"))]
TINY = replace(PAPER, batch=4, depth_iterations=150, depth_warmup=10, depth_lr=3e-2, depth_bins=16, depth_loss_warmup=5)
BENCHMARK = DepthBenchmark("none", crop=(48, 56))
MAX_DEPTH = 8.0


@dataclass
class Ramp(FakeImage):
    """Depth from 1 to 6 m, and grey that rises with it."""

    seed: int = 0
    height: int = 64
    width: int = 72

    def __post_init__(self) -> None:
        first, last = np.random.default_rng(self.seed).uniform(1, 6, 2)
        self.metres = np.linspace(first, last, self.width, dtype=np.float32)[None].repeat(self.height, 0)

    def image(self) -> np.ndarray:
        return np.repeat((35 * self.metres)[..., None], 3, axis=2).astype(np.uint8)


IMAGES = [Ramp(seed=seed) for seed in range(6)]


def train(protocol: PaperProtocol = TINY, images: list[Ramp] = IMAGES, seeds: tuple[int, ...] = (0, 1)) -> LinearHeads:
    return train_depth(ColourEncoder(), images, ARMS, seeds, protocol, BENCHMARK, MAX_DEPTH)  # type: ignore[arg-type]


def test_only_the_first_backbones_class_token_is_used() -> None:
    assert [arm.backbones for arm in with_first_class_token(ARMS)] == [
        ("colour", "colour/class"),
        ("noise", "noise/class"),
        ("colour", "noise", "colour/class"),
    ]
    heads = train(replace(TINY, depth_iterations=1))
    assert heads.users == {"colour": [0, 2], "colour/class": [0, 2], "noise": [1, 2], "noise/class": [1]}


def test_a_planted_depth_is_learned_and_noise_knows_nothing() -> None:
    heads = train()
    scores = DepthScores(ARMS, (0, 1), MAX_DEPTH)
    tested = [Ramp(seed=seed) for seed in (21, 22, 23)]
    arguments = (ColourEncoder(), heads, tested, TINY, BENCHMARK, MAX_DEPTH)
    for index, predicted in predict_depth(*arguments):  # type: ignore[arg-type]
        assert predicted.shape == (3, 2, 64, 72)
        scores.add(tested[index].depth(), predicted)
    results = scores.results()
    assert max(results["colour"].rmse) < 0.6
    assert max(results["both"].rmse) < 0.9
    assert min(results["noise"].rmse) > 1.2 * max(results["both"].rmse)


def test_training_twice_gives_the_same_heads_and_other_seeds_others() -> None:
    short = replace(TINY, depth_iterations=3)
    first, second = (train(short).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["weights.colour.0"], first["weights.colour.1"])


def test_a_prediction_is_the_mean_of_the_image_and_its_mirror_image_turned_back() -> None:
    heads = train(replace(TINY, depth_iterations=10))

    class OneSided(ColourEncoder):
        """Sees colours in the left half only, so that an image and its mirror image differ."""

        def __call__(self, crops, size):  # type: ignore[no-untyped-def]
            encoded = super().__call__(crops, size)
            for map in encoded.maps.values():
                map[:, :, map.shape[2] // 2 :] = 0
            return encoded

    class Turned(Ramp):
        def image(self) -> np.ndarray:
            return super().image()[:, ::-1]

    def predict(image: Ramp) -> np.ndarray:
        arguments = (OneSided(), heads, [image], TINY, BENCHMARK, MAX_DEPTH)
        return next(predict_depth(*arguments))[1][0]  # type: ignore[arg-type]

    plain, turned = predict(Ramp(seed=1)), predict(Turned(seed=1))
    np.testing.assert_allclose(turned, plain[..., ::-1], rtol=1e-3)
    assert plain.std() > 1e-3


def test_images_of_different_sizes_smaller_than_the_crop_train_together() -> None:
    encoder = ColourEncoder()
    images = [Ramp(height=40, width=50), Ramp(height=48, width=36)]
    protocol = replace(TINY, batch=2, depth_iterations=2)
    heads = train_depth(encoder, images, ARMS, (0,), protocol, BENCHMARK, MAX_DEPTH)  # type: ignore[arg-type]
    assert encoder.sizes == [(48, 50)] * 2
    assert all(value.isfinite().all() for value in heads.state_dict().values())


def test_an_image_without_depth_leaves_heads_finite() -> None:
    blank = Ramp()
    blank.metres = np.zeros_like(blank.metres)
    heads = train(replace(TINY, depth_iterations=3), images=[blank])
    assert all(value.isfinite().all() for value in heads.state_dict().values())


def test_kitti_is_encoded_and_predicted_in_its_test_region() -> None:
    heads = train(replace(TINY, depth_iterations=1))
    encoder = ColourEncoder()
    image = Ramp(height=375, width=1242)
    arguments = (encoder, heads, [image], TINY, DEPTH_BENCHMARKS["kitti"], MAX_DEPTH)
    [(_, depth)] = predict_depth(*arguments)  # type: ignore[arg-type]
    assert encoder.sizes == [(352, 1216)]
    assert depth.shape == (3, 2, 375, 1242)
    assert (depth[:, :, 23:, 13:1229] > 0).all()
    assert np.count_nonzero(depth) == 6 * 352 * 1216


def test_depth_beyond_the_last_bin_counts_in_training_as_published() -> None:
    def heads_with(metres: float) -> torch.Tensor:
        image = Ramp()
        image.metres[:, 40:] = metres
        return train(replace(TINY, depth_iterations=2), images=[image]).state_dict()["biases.0"]

    unknown, far = heads_with(0.0), heads_with(50.0)
    assert torch.equal(heads_with(50.0), far)
    assert not torch.equal(unknown, far)
