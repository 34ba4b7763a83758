"""Bad input stops ns-train with one sentence, exit code 2 and nothing left behind.

What can be wrong with a capture is tested in tests/capture; here is what reaches the user of the command.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from PIL import Image

from fit3d_ns.method.trainer import Fit3DTrainerConfig
from tests.fit3d_ns.method.colmap_model import write_colmap_model
from tests.fit3d_ns.method.runs import make_config, make_trainer, train
from tests.scenes import write_capture


def _edit(capture: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = capture / "transforms.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def _truncate(capture: Path) -> None:
    path = sorted((capture / "images").iterdir())[2]
    path.write_bytes(path.read_bytes()[:300])


def _small_mask(capture: Path) -> None:
    path = sorted((capture / "masks").iterdir())[0]
    Image.new("L", (10, 10), 255).save(path)


def _remove_images(capture: Path) -> None:
    for path in list((capture / "images").iterdir())[:4]:
        path.unlink()


def _skew(meta: dict[str, Any]) -> None:
    meta["frames"][1]["transform_matrix"][0][0] += 0.5


def _nan(meta: dict[str, Any]) -> None:
    meta["frames"][1]["transform_matrix"][0][3] = float("nan")


CASES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no frames": (lambda c: _edit(c, lambda m: m.update(frames=[])), ["transforms.json"]),
    "two views": (lambda c: _edit(c, lambda m: m.update(frames=m["frames"][:2])), ["transforms.json", "2"]),
    "missing files": (_remove_images, ["4 of 10", "transforms.json"]),
    "wrong size": (lambda c: _edit(c, lambda m: m.update(w=200)), ["200", "112"]),
    "NaN pose": (lambda c: _edit(c, _nan), ["transforms.json"]),
    "non-rigid pose": (lambda c: _edit(c, _skew), ["transforms.json"]),
    "truncated image": (_truncate, [".png"]),
    "mask of another size": (_small_mask, ["10x10"]),
    "no transforms.json": (lambda c: (c / "transforms.json").unlink(), ["ns-process-data"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_capture_is_one_sentence(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = CASES[case]
    capture = write_capture(tmp_path / "scene", masks=True)
    damage(capture)
    _assert_refused(make_config(capture, tmp_path / "outputs", steps=2), words, capsys)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "vit_smal_patch14_dinov2", ["vit_smal_patch14_dinov2", "vit_small_patch14_dinov2"]),
        ("layer", 40, ["layer 40", "0 to 11"]),
        ("weights", "nowhere.safetensors", ["nowhere.safetensors"]),
    ],
)
def test_a_bad_backbone_is_one_sentence(
    field: str, value: Any, words: list[str], tiny_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tiny_capture, tmp_path / "outputs", steps=2)
    object.__setattr__(config.pipeline.datamanager.backbone, field, value)
    _assert_refused(config, words, capsys)


def test_a_feature_dim_below_one_is_one_sentence(
    tiny_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tiny_capture, tmp_path / "outputs", steps=2, feature_dim=0)
    _assert_refused(config, ["--pipeline.model.feature-dim", "0"], capsys)


def _assert_refused(config: Fit3DTrainerConfig, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        make_trainer(config)
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]
    assert not config.get_base_dir().exists(), "a run folder was left behind"


def test_the_command_itself_exits_with_code_2(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("ns-train")), "fit3d-features-fast", "--data", str(tmp_path)]
    result = subprocess.run(
        [*command, "--output-dir", str(tmp_path / "outputs"), "--vis", "tensorboard"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert not list((tmp_path / "outputs").rglob("config.yml"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("images.txt", ""),
        ("images.txt", "no numbers\n"),
        ("cameras.txt", "1 PINHOLE 112\n"),
        ("cameras.txt", bytes(range(256))),
        ("points3D.txt", "a b c\n"),
    ],
)
def test_a_broken_colmap_model_is_one_sentence(
    name: str, content: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = write_capture(tmp_path / "capture")
    write_colmap_model(capture)
    (capture / "sparse" / "0" / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def use_colmap(config: Fit3DTrainerConfig) -> None:
        parser = ColmapDataParserConfig(data=capture, colmap_path=Path("sparse/0"), downscale_factor=1)
        config.pipeline.datamanager.dataparser = parser

    config = make_config(capture, tmp_path / "out", steps=1, change=use_colmap)
    _assert_refused(config, ["capture", "cannot be read as Colmap data"], capsys)


@pytest.mark.parametrize("kind", ["L", "RGBA", "I;16", "LA"])
def test_unusual_images_are_converted(kind: str, tmp_path: Path) -> None:
    def save(photo: Image.Image, path: Path) -> None:
        if kind == "I;16":
            grey = np.asarray(photo.convert("L"), dtype=np.uint16) * 257
            Image.fromarray(grey).save(path)
        else:
            photo.convert(kind).save(path)

    capture = write_capture(tmp_path / "scene", views=5, save=save)
    trainer = train(make_config(capture, tmp_path / "outputs", steps=3))
    image = trainer.pipeline.datamanager.cached_train[0]["image"]
    assert image.shape[-1] == (4 if kind in ("RGBA", "LA") else 3)
    assert float(image[..., :3].float().std()) > 10
