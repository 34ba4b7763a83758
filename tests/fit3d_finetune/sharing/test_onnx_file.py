"""An ONNX file gives torch's maps for images of any number and size, or it is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_finetune.backbone.extract import load_extractor
from fit3d_finetune.sharing import onnx_file
from fit3d_finetune.sharing.network import TRACED, PatchFeatures
from fit3d_finetune.sharing.onnx_file import write_onnx
from fit3d_finetune.sharing.outputs import Written
from fit3d_ns.common.choices import FeatureChoice
from fit3d_ns.common.errors import InputError

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def written(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_onnx(shared, tmp_path_factory.mktemp("onnx") / "new" / "both.onnx")


def run(path: Path, images: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize("size", [(1, 32, 32), (2, 160, 160), (3, 112, 48), (5, 64, 320)])
@torch.no_grad()
def test_it_gives_the_maps_of_the_assembly_at_any_size(written: Written, shared: Path, size: tuple[int, ...]) -> None:
    images = torch.rand(size[0], 3, *size[1:])
    expected = load_extractor(shared)(images)
    torch.testing.assert_close(run(written.path, images), expected, atol=1e-4, rtol=1e-4)


def test_it_is_one_file_that_says_what_it_is(written: Written) -> None:
    import onnx

    assert [path.name for path in written.path.parent.iterdir()] == ["both.onnx"]
    model = onnx.load(str(written.path))
    described = json.loads({entry.key: entry.value for entry in model.metadata_props}["fit3d"])
    assert (described["features"], described["patch_size"], described["channels"]) == ("both", 16, 128)
    assert "/" not in described["name"]
    shapes = [
        [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (model.graph.input[0], model.graph.output[0])
    ]
    assert shapes == [["batch", 3, "height", "width"], ["batch", 128, "rows", "columns"]]


def test_blocks_after_the_feature_layer_are_left_out(written: Written, shared: Path) -> None:
    whole = 2 * (shared / "model.safetensors").stat().st_size / 1e6
    assert 0.2 < written.megabytes / whole < 0.6  # one block of six, the embeddings, and the graph itself


def test_it_was_compared_at_sizes_that_were_not_traced(written: Written) -> None:
    agreement = written.agreement
    traced = (TRACED[0], TRACED[1] * 16, TRACED[2] * 16)
    assert len(set(agreement.sizes)) == 2
    assert traced not in agreement.sizes
    assert 0 < agreement.difference < 1e-4 < agreement.magnitude
    assert "largest difference" in str(written)


@torch.no_grad()
def test_one_backbone_can_be_written_alone(shared: Path, tmp_path: Path) -> None:
    features: FeatureChoice = "finetuned"
    alone = write_onnx(shared, tmp_path / "one.onnx", features)
    images = torch.rand(1, 3, 48, 64)
    torch.testing.assert_close(run(alone.path, images), load_extractor(shared, features)(images), atol=1e-4, rtol=1e-4)


def test_a_file_that_differs_from_torch_is_not_kept(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    translated = onnx_file._translated

    def spoilt(network: PatchFeatures, description: dict[str, object]) -> object:
        with torch.no_grad():
            network.get_buffer("mean").add_(0.1)
        model = translated(network, description)
        with torch.no_grad():
            network.get_buffer("mean").sub_(0.1)
        return model

    monkeypatch.setattr(onnx_file, "_translated", spoilt)
    with pytest.raises(InputError, match=r"model\.onnx differs from torch by up to .* and is not kept"):
        write_onnx(shared, tmp_path / "model.onnx", "original")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_no_file_holds_are_refused(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST_FILE", 1 << 16)
    with pytest.raises(InputError, match=r"GB of weights are more than one ONNX file holds .*--features finetuned"):
        write_onnx(shared, tmp_path / "model.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(
    package: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"fit3d-share onnx needs the package {package}: pip install '{package}>="):
        write_onnx(shared, tmp_path / "model.onnx")


def test_a_place_that_is_taken_or_no_fine_tuned_folder_is_named_before_the_work(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_translated", lambda *_: pytest.fail("the work began"))
    (tmp_path / "mine.onnx").write_text("mine")
    for folder, output, message in (
        (shared, tmp_path / "mine.onnx", r"mine\.onnx is there already: nothing of it was touched"),
        (shared, tmp_path / "model.pt", r"--output .*model\.pt must end in \.onnx"),
        (shared, tmp_path / "mine.onnx" / "x.onnx", "is a file, not a folder"),
        (tmp_path, tmp_path / "model.onnx", "is not a fine-tuned backbone"),
    ):
        with pytest.raises(InputError, match=message):
            write_onnx(folder, output)
    assert (tmp_path / "mine.onnx").read_text() == "mine"
    assert np.sum([1 for _ in tmp_path.iterdir()]) == 1
