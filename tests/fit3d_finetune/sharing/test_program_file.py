"""A program file runs with torch alone, and there is no pickle in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from fit3d_finetune.backbone.extract import load_extractor
from fit3d_finetune.sharing import program_file
from fit3d_finetune.sharing.network import PatchFeatures, trace
from fit3d_finetune.sharing.outputs import Written
from fit3d_finetune.sharing.program_file import pickled_entries, write_program
from fit3d_ns.common.errors import InputError


@pytest.fixture(scope="module")
def written(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_program(shared, tmp_path_factory.mktemp("program") / "model.pt2")


@pytest.mark.parametrize("size", [(1, 32, 32), (2, 160, 160), (3, 112, 48)])
@torch.no_grad()
def test_it_gives_the_maps_of_the_assembly_at_any_size(written: Written, shared: Path, size: tuple[int, ...]) -> None:
    images = torch.rand(size[0], 3, *size[1:])
    found = torch.export.load(written.path).module()(images)
    torch.testing.assert_close(found, load_extractor(shared)(images), atol=1e-4, rtol=1e-4)


def test_torch_alone_runs_it(written: Written) -> None:
    code = (
        "import sys, torch; sys.modules.update(timm=None, fit3d_ns=None, fit3d_finetune=None); "
        f"print(tuple(torch.export.load({str(written.path)!r}).module()(torch.rand(1, 3, 48, 64)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "(1, 128, 3, 4)", done.stderr


def test_there_is_no_pickle_in_it(written: Written) -> None:
    assert pickled_entries(written.path) == []
    with zipfile.ZipFile(written.path) as archive:
        for entry in archive.infolist():
            content = archive.read(entry)
            # torch.save's own zip, and what every pickle since protocol 2 begins with.
            assert not content.startswith(b"PK\x03\x04"), entry.filename
            assert not (content[:1] == b"\x80" and content[1:2] <= b"\x05" and content.endswith(b".")), entry.filename


def test_a_pickle_would_be_found(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.export.save as it is pickles the batch that was traced."""
    network = PatchFeatures(load_extractor(shared, "original"))
    torch.export.save(trace(network), tmp_path / "plain.pt2")
    [entry] = pickled_entries(tmp_path / "plain.pt2")
    assert entry.startswith("data/sample_inputs/")
    monkeypatch.setattr(program_file, "pickled_entries", lambda path: ["data/surprise"])
    with pytest.raises(InputError, match=r"would write a pickle into .*model\.pt2 \(data/surprise\)"):
        write_program(shared, tmp_path / "model.pt2", "original")
    assert [path.name for path in tmp_path.iterdir()] == ["plain.pt2"]


def test_entries_that_are_said_to_be_pickled_and_unknown_ones_are_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("x/data/weights/model_weights_config.json", '{"config": {"w": {"use_pickle": true}}}')
        archive.writestr("x/data/weights/weight_0", b"")
        archive.writestr("x/data/constants/custom_obj_0", b"")
    assert pickled_entries(tmp_path / "x.pt2") == [
        "data/weights/model_weights_config.json: w",
        "data/constants/custom_obj_0",
    ]


def test_a_place_that_is_taken_is_named(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pt2").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.pt2 is there already"):
        write_program(shared, tmp_path / "mine.pt2")
    with pytest.raises(InputError, match=r"must end in \.pt2"):
        write_program(shared, tmp_path / "model.zip")
