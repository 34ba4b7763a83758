"""`fit3d-share` from its command line: what it writes, what it says, and how it ends."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import fit3d_finetune
from fit3d_finetune.backbone.hub import save_finetuned
from fit3d_finetune.commands import share
from fit3d_ns.common.errors import EXIT_BAD_INPUT
from fit3d_ns.features.adapter import Adapter, Base, layers_sha256, tensors_of
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.finetuned import summary_of, write_finetuned
from tests.fit3d_finetune.scenes import BACKBONE
from tests.fit3d_finetune.sharing.conftest import hub as hub  # a fixture
from tests.fit3d_finetune.sharing.hub_server import FakeHub


@pytest.fixture(scope="module")
def _finetuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its features are those of the first block, so that tracing takes seconds."""
    return write_finetuned(tmp_path_factory.mktemp("share") / "finetuned", dataclasses.replace(BACKBONE, layer=0))


@pytest.fixture
def finetuned(_finetuned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_finetuned, tmp_path / "finetuned"))


def write_adapted(folder: Path) -> Path:
    """As fit3d-finetune --adapter lora --save adapter writes one."""
    backbone = load_backbone(BACKBONE)
    layer = "blocks.0.attn.proj"
    base = Base(backbone.identity.name, "random", layers_sha256(backbone.model, [layer]))
    tensors, metadata = tensors_of(Adapter({layer: (torch.ones(1, 64), torch.ones(64, 1))}, base))
    (folder / "adapter").mkdir(parents=True)
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors", metadata)
    save_finetuned(backbone, folder, summary_of(), card="", save="adapter")
    return folder


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code and what was said, with line breaks and frames taken out."""
    monkeypatch.setattr(sys, "argv", ["fit3d-share", *map(str, words)])
    code = 0
    try:
        share.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, " ".join((captured.out + captured.err).split())


def test_publish_without_yes_says_what_it_would_do_and_asks_nobody(
    finetuned: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (finetuned / "notes.txt").write_text("mine")
    words = ("publish", finetuned, "--repo-id", "someone/rooms", "--endpoint", hub.endpoint, "--token", "good")
    said: list[str] = []
    monkeypatch.setattr(share.logger, "info", lambda text, *values: said.append(text % values))
    monkeypatch.setattr(share.CONSOLE, "print", lambda table: said.extend(map(str, table.columns[0].cells)))
    code, _ = command(monkeypatch, capsys, *words)
    assert code == 0
    for part in ("model.safetensors", "Stays here: notes.txt", "Nothing was uploaded: give --yes to do it.", "Licence"):
        assert any(part in line for line in said), part
    assert "good" not in " ".join(said)
    assert hub.created == hub.commits == []
    code, _ = command(monkeypatch, capsys, *words, "--yes")
    assert code == 0
    assert said[-1] == f"Published: {hub.endpoint}/someone/rooms"
    assert "notes.txt" not in hub.commits[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("onnx", "nowhere", "--output", "x.onnx"), "nowhere is not a fine-tuned backbone"),
        (("program", "nowhere", "--output", "x.pt2"), "nowhere is not a fine-tuned backbone"),
        (("merge", "nowhere", "--output-dir", "merged"), "nowhere is not a fine-tuned backbone"),
        (("merge", "finetuned", "--output-dir", "merged"), "finetuned holds no adapter"),
        (("publish", "nowhere", "--repo-id", "a/b"), "nowhere is not a fine-tuned backbone"),
        (("publish", "finetuned", "--repo-id", "rooms"), "--repo-id rooms lacks the user"),
        (("onnx", "finetuned", "--output", "finetuned/README.md"), "must end in .onnx"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: tuple[str, ...],
    message: str,
    finetuned: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(finetuned.parent)
    code, said = command(monkeypatch, capsys, *words)
    assert code == EXIT_BAD_INPUT
    assert said.startswith("error: ")
    assert message in said
    assert [path.name for path in finetuned.parent.iterdir() if path.name != "cache"] == ["finetuned"]


def test_no_token_is_one_sentence_and_exit_code_2(
    finetuned: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("publish", finetuned, "--repo-id", "someone/rooms", "--endpoint", hub.endpoint, "--token", "bad", "--yes")
    code, said = command(monkeypatch, capsys, *words)
    assert code == EXIT_BAD_INPUT
    assert "error: " in said
    assert "(401)" in said
    assert "Traceback" not in said


def test_merge_writes_the_folder_of_the_merged_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_adapted(tmp_path / "lora")
    code, said = command(monkeypatch, capsys, "merge", folder, "--output-dir", tmp_path / "merged")
    assert code == 0, said
    images = torch.rand(1, 3, 48, 64)
    assert torch.equal(fit3d_finetune.load(tmp_path / "merged")(images), fit3d_finetune.load(folder)(images))
    assert len(load_file(tmp_path / "merged" / "model.safetensors")) > 50
    code, said = command(monkeypatch, capsys, "merge", folder, "--output-dir", tmp_path / "merged")
    assert code == EXIT_BAD_INPUT
    assert "merged is there already" in said


def test_onnx_and_program_write_what_they_were_asked_for(
    finetuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    for kind, suffix in (("onnx", "onnx"), ("program", "pt2")):
        output = finetuned.parent / f"model.{suffix}"
        code, said = command(monkeypatch, capsys, kind, finetuned, "--output", output, "--features", "finetuned")
        assert code == 0, said
        assert output.is_file()
