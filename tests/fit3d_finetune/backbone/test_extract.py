"""`extract_features` takes images as people have them, and gives what the backbone gives of prepared ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fit3d_finetune import FeatureAssembly, extract_features, load
from fit3d_finetune.backbone.extract import load_extractor
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_ns.capture.images import load_image
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.finetuned import write_finetuned
from tests.fit3d_finetune.scenes import BACKBONE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finetuned(tmp_path_factory.mktemp("extract") / "finetuned")


@pytest.fixture(scope="module")
def assembly(folder: Path) -> FeatureAssembly:
    return load(folder)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 x 50 pixels: no whole patches."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


@torch.no_grad()
def expected(assembly: FeatureAssembly, photo: Path) -> torch.Tensor:
    pixels = torch.from_numpy(load_image(photo)).permute(2, 0, 1)[None].float() / 255
    return assembly(pixels)


def test_a_path_a_picture_an_array_and_tensors_of_one_image_give_the_same(
    assembly: FeatureAssembly, photo: Path
) -> None:
    picture, array = Image.open(photo), load_image(photo)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    maps = expected(assembly, photo)
    assert maps.shape == (1, 128, 3, 4)
    alone = (photo, str(photo), picture, array, array / 255, tensor, tensor / 255, tensor[None])
    for images in (*alone, [tensor], iter([photo])):
        torch.testing.assert_close(extract_features(images, assembly), maps, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "I;16"])
def test_a_picture_of_any_mode_gives_what_its_file_gives(
    mode: str, assembly: FeatureAssembly, photo: Path, tmp_path: Path
) -> None:
    grey = Image.open(photo).convert("L")
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        picture = (grey if mode == "LA" else Image.open(photo)).convert(mode)
    if "A" in mode:
        picture.putalpha(grey)
    picture.save(tmp_path / "other.png")
    of_file = extract_features(tmp_path / "other.png", assembly)
    torch.testing.assert_close(extract_features(picture, assembly), of_file, atol=1e-5, rtol=1e-5)


def test_each_choice_is_its_part_of_both_from_folder_and_assembly(
    folder: Path, assembly: FeatureAssembly, photo: Path
) -> None:
    both = extract_features(photo, folder, device="cpu")
    assert torch.equal(both, extract_features(photo, assembly, "both"))
    for choice, part in (("original", both[:, :64]), ("finetuned", both[:, 64:])):
        assert torch.equal(extract_features(photo, folder, choice, device="cpu"), part)
        assert torch.equal(extract_features(photo, assembly, choice), part)
    assert torch.equal(extract_features(photo, assembly.original), both[:, :64])
    assert not torch.allclose(both[:, :64], both[:, 64:], atol=0.01)


def test_the_size_of_a_batch_changes_nothing(assembly: FeatureAssembly) -> None:
    images = torch.rand(5, 3, 32, 48)
    one, all_at_once = (extract_features(images, assembly, batch_size=size) for size in (1, 8))
    assert one.shape == (5, 128, 2, 3)
    torch.testing.assert_close(one, all_at_once, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(extract_features(images[3], assembly)[0], one[3], atol=1e-5, rtol=1e-5)


def test_only_a_batch_is_in_memory(assembly: FeatureAssembly) -> None:
    """An iterable of a million photos is read as it is encoded."""
    alive: list[int] = []
    encoded: list[int] = []

    def images() -> Iterator[torch.Tensor]:
        for i in range(6):
            alive.append(i - sum(encoded))
            yield torch.rand(3, 32, 32)

    hook = assembly.register_forward_hook(lambda *found: encoded.append(len(found[2])))
    try:
        extract_features(images(), assembly, batch_size=2)
    finally:
        hook.remove()
    assert encoded == [2, 2, 2]
    assert max(alive) <= 2


def test_images_of_several_sizes_need_a_common_one(assembly: FeatureAssembly) -> None:
    images = [torch.rand(3, 50, 70), torch.rand(3, 52, 66), torch.rand(3, 70, 50)]
    assert extract_features(images[:2], assembly).shape == (2, 128, 3, 4)  # the same patches
    with pytest.raises(ValueError, match=r"image 2 gives 4 x 3 patches, image 0 3 x 4: give size=\(height, width\)"):
        extract_features(images, assembly)
    assert extract_features(images, assembly, size=(48, 64)).shape == (3, 128, 3, 4)
    flat = torch.full((3, 50, 70), 0.25)  # stays what it is, whatever it is resized to
    torch.testing.assert_close(
        extract_features(flat, assembly, size=(48, 64)),
        extract_features(flat[:, :48, :64], assembly),
        atol=1e-4,
        rtol=0,
    )


def test_precision_is_that_of_the_call_and_stays_with_it(assembly: FeatureAssembly, photo: Path) -> None:
    plain = extract_features(photo, assembly)
    half = extract_features(photo, assembly, precision="bf16")
    assert half.dtype == torch.float32
    assert 0 < (half - plain).abs().max() < 0.5
    assert torch.equal(extract_features(photo, assembly, precision="fp32"), plain)
    assert torch.equal(extract_features(photo, assembly), plain)
    assert assembly.original.config.precision == "fp32"


def test_no_gradient_is_kept_and_the_result_may_be_trained_on(assembly: FeatureAssembly, photo: Path) -> None:
    maps = extract_features(photo, assembly)
    assert not maps.requires_grad
    (maps.requires_grad_() ** 2).sum().backward()  # not so after torch.inference_mode


def test_finetuned_features_need_no_original_weights(tmp_path: Path) -> None:
    weights = tmp_path / "gated.safetensors"
    save_file(load_backbone(BACKBONE).model.state_dict(), weights)
    folder = write_finetuned(tmp_path / "finetuned", dataclasses.replace(BACKBONE, weights=str(weights)))
    image = torch.rand(3, 32, 32)
    maps = extract_features(image, folder)
    moved = weights.rename(tmp_path / "moved.safetensors")
    assert torch.equal(extract_features(image, folder, "finetuned"), maps[:, 64:])
    for choice in ("original", "both"):
        with pytest.raises(InputError, match="there is no file or folder"):
            extract_features(image, folder, choice)
        again = extract_features(image, folder, choice, original_weights=str(moved))
        assert torch.equal(again, maps[:, : again.shape[1]])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "there are no images"),
        (torch.rand(2, 32, 32), r"image 0: a tensor must be \[3, H, W\] or \[B, 3, H, W\], not \[2, 32, 32\]"),
        (torch.rand(3, 0, 32), "image 0: a tensor must be"),
        (torch.rand(3, 32, 32) * 3 - 1, r"image 0 has values outside 0\.\.1: give it before any normalisation"),
        (torch.full((3, 32, 32), float("nan")), r"image 0 has values outside 0\.\.1"),
        (torch.ones(3, 32, 32, dtype=torch.int64), "image 0 is of torch.int64"),
        (np.zeros((32, 32, 4), np.uint8), r"image 0: an array must be .* not \[32, 32, 4\]"),
        ([torch.rand(3, 32, 32), None], "image 1 is a NoneType: give paths, PIL images, arrays or tensors"),
    ],
)
def test_what_is_no_image_is_named(assembly: FeatureAssembly, images: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extract_features(images, assembly)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"size": (0, 5)}, "size must be a height and a width"),
        ({"features": "tuned"}, "features must be one of original, finetuned, both, not 'tuned'"),
        ({"precision": "fp16"}, "precision must be one of fp32, bf16, not 'fp16'"),
        ({"original_weights": "x"}, "original_weights are of a folder"),
    ],
)
def test_options_that_do_not_fit_are_named(assembly: FeatureAssembly, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extract_features(torch.rand(3, 32, 32), assembly, **options)  # type: ignore[arg-type]


def test_a_single_backbone_has_one_kind_of_features(assembly: FeatureAssembly) -> None:
    with pytest.raises(ValueError, match="a single backbone has one kind"):
        extract_features(torch.rand(3, 32, 32), assembly.original, "both")


def test_files_and_folders_that_are_no_images_or_backbones_are_named(folder: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(photo.read_bytes()[:200])
    for path, message in (
        (tmp_path / "none.png", "none.png does not exist"),
        (tmp_path / "broken.png", "broken.png cannot be read or is truncated"),
        (tmp_path, "is a folder, not an image: give its files"),
    ):
        with pytest.raises(InputError, match=message):
            extract_features([photo, path], folder)
    with pytest.raises(InputError, match="is not a fine-tuned backbone"):
        extract_features(photo, tmp_path)
    with pytest.raises(ValueError, match="features must be one of"):
        load_extractor(folder, "all")  # type: ignore[arg-type]


@pytest.mark.gpu
def test_maps_come_to_the_cpu_wherever_they_are_computed(folder: Path, photo: Path) -> None:
    on_gpu = extract_features(photo, folder, device="cuda")
    assert on_gpu.device.type == "cpu"
    torch.testing.assert_close(on_gpu, extract_features(photo, folder, device="cpu"), atol=1e-2, rtol=1e-2)
    assert read_finetuned(folder).original.precision == "fp32"
