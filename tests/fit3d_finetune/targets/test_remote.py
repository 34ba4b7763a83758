"""Exports on object storage: the same targets and weights as from a folder, or a sentence; never something else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from fit3d_ns.features import cache as feature_cache
from fit3d_ns.remote.folder import RemoteFolder
from fit3d_ns.scene.upload import upload_export
from tests.fit3d_finetune.scenes import make_gaussians, run_of, store_of, write_export
from tests.object_storage import (
    NEEDED,
    Answer,
    folder_server,
    upload,
    web_server,
)

pytest.importorskip("obstore", reason=NEEDED)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    assert feature_cache.default_cache_dir() == tmp_path / "cache"
    return tmp_path / "cache" / "remote"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Two exports in runs/, their images in captures/, one folder each."""
    for index, name in enumerate(("hall", "plane")):
        write_export(tmp_path / "runs" / name, seed=index, view_dependence="position" if index else "none")
    return tmp_path


def uploaded(local: Path, bucket: str) -> tuple[str, str]:
    """Addresses of exports and images, whose folders here are gone afterwards."""
    upload(local / "runs", f"{bucket}/runs")
    upload(local / "captures", f"{bucket}/captures")
    return f"{bucket}/runs", f"{bucket}/captures"


def test_targets_and_images_are_those_of_the_folder(local: Path, bucket: str, tmp_path: Path) -> None:
    expected = store_of(tmp_path / "a", *find_scenes(local / "runs"))
    targets = [(expected.get(scene, view), expected.image(scene, view)) for scene in range(2) for view in range(5)]
    positions = [scene.files.position() for scene in expected.scenes]
    exports, images = uploaded(local, bucket)
    shutil.rmtree(local / "runs")
    shutil.rmtree(local / "captures")
    scenes = find_scenes(exports, images)
    assert [scene.name for scene in scenes] == ["hall", "plane"]
    assert str(scenes[0].files) == f"{bucket}/runs/hall"
    assert positions[0] is None
    assert scenes[0].files.position() is None
    assert torch.equal(scenes[1].files.position(), positions[1])  # type: ignore[arg-type]
    found = store_of(tmp_path / "b", *scenes)
    for (target, image), (scene, view) in zip(targets, [(s, v) for s in range(2) for v in range(5)], strict=True):
        assert torch.equal(found.get(scene, view).features, target.features)
        assert torch.equal(found.image(scene, view), image)


def test_finding_reads_no_gaussians(local: Path, bucket: str, cache: Path) -> None:
    exports, images = uploaded(local, bucket)
    scenes = find_scenes(exports, images)
    assert list(cache.iterdir()) == []
    assert len(scenes[0].load()) == 400
    assert len(list(cache.iterdir())) == 1
    [one] = find_scenes(f"{exports}/plane", f"{images}/plane")
    assert one.name == "plane"


def test_a_backbone_trained_from_a_store_is_the_same(local: Path, bucket: str, tmp_path: Path) -> None:
    expected = finetune(run_of(tmp_path / "from-folder", find_scenes(local / "runs"), max_steps=3))
    scenes = find_scenes(*uploaded(local, bucket))
    found = finetune(run_of(tmp_path / "from-store", scenes, max_steps=3))
    weights = [load_file(folder / "model.safetensors") for folder in (expected, found)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_small_cache_keeps_its_bound_and_changes_nothing(local: Path, bucket: str, cache: Path) -> None:
    scenes = find_scenes(*uploaded(local, bucket), cache_bytes=1)
    first = scenes[0].load().means
    scenes[1].load()
    assert torch.equal(scenes[0].load().means, first)
    assert len([path for path in cache.iterdir() if not path.name.startswith(".")]) == 1


def test_images_may_be_on_this_machine(local: Path, bucket: str) -> None:
    exports, _ = uploaded(local, bucket)
    [hall, _] = find_scenes(exports)
    assert hall.files.image(hall.views[0]) == local / "captures" / "hall" / hall.views[0].path
    shutil.move(local / "captures", local / "moved")
    with pytest.raises(InputError, match=r"the images of s3://.*/runs/hall are not in .*: give --images-root"):
        find_scenes(exports)
    assert find_scenes(exports, local / "moved")[0].files.image(hall.views[0]).is_file()


def test_an_image_that_changed_is_refused(local: Path, bucket: str) -> None:
    exports, images = uploaded(local, bucket)
    [hall, _] = find_scenes(exports, images)
    store = RemoteFolder(f"{images}/hall")
    store.write(hall.views[0].path, store.read(hall.views[1].path))
    with pytest.raises(InputError, match=r"is not the image that s3://.*/hall was made from .*SHA-256"):
        hall.files.image(hall.views[0])
    store.remove(hall.views[2].path)
    with pytest.raises(InputError, match=r"an image of s3://.*/hall, is not there: upload it"):
        hall.files.image(hall.views[2])


def shortened(store: RemoteFolder) -> None:
    store.write("hall/gaussians.safetensors", store.read("hall/gaussians.safetensors")[:-7])


def of_another_export(store: RemoteFolder) -> None:
    store.write("hall/scene.json", store.read("plane/scene.json"))


def without_gaussians(store: RemoteFolder) -> None:
    store.remove("hall/gaussians.safetensors")


def with_a_lying_header(store: RemoteFolder) -> None:
    store.write("hall/gaussians.safetensors", (10**15).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (shortened, r"has \d+ bytes where its header says \d+: upload it again"),
        (of_another_export, "are of different exports"),
        (without_gaussians, r"has no gaussians\.safetensors: upload the whole export"),
        (with_a_lying_header, "is truncated or damaged"),
    ],
)
def test_a_damaged_export_is_refused_before_it_is_downloaded(
    damage: Callable[[RemoteFolder], None], sentence: str, local: Path, bucket: str
) -> None:
    exports, images = uploaded(local, bucket)
    damage(RemoteFolder(exports))
    with pytest.raises(InputError, match=sentence):
        find_scenes(exports, images)
    assert [scene.name for scene in find_scenes(exports, images, skip_broken=True)] == ["plane"]


def test_an_export_that_is_replaced_meanwhile_is_noticed(local: Path, bucket: str, tmp_path: Path) -> None:
    exports, images = uploaded(local, bucket)
    [hall, _] = find_scenes(exports, images)
    write_export(tmp_path / "other" / "runs" / "hall", seed=7, count=300)
    upload(tmp_path / "other" / "runs", exports)
    with pytest.raises(InputError, match=r"came with \d+ bytes instead of \d+"):
        hall.load()


def test_nothing_there_is_said(bucket: str) -> None:
    with pytest.raises(InputError, match="holds no exports"):
        find_scenes(f"{bucket}/runs")
    with pytest.raises(InputError, match="exports in a folder have their images in one, too"):
        find_scenes("runs", f"{bucket}/captures")


def test_a_web_server_of_exports_is_enough(local: Path) -> None:
    (local / "runs" / "scenes.json").write_text('{"scenes": [{"scene": "plane", "state": "done"}]}')
    with web_server(folder_server(local)) as address:
        [plane] = find_scenes(f"{address}/runs", f"{address}/captures")
        assert len(plane.load()) == 400

    def cut(path: str, answer: Answer) -> Answer:
        status, headers, body = answer
        return status, headers, body[: len(body) // 2] if path.endswith(".png") else body

    with web_server(folder_server(local, cut)) as address:
        [plane] = find_scenes(f"{address}/runs", f"{address}/captures")
        with pytest.raises(InputError, match=r"cannot be reached|came with"):
            plane.files.image(plane.views[0])


def test_an_upload_replaces_only_when_told(local: Path, bucket: str) -> None:
    store = RemoteFolder(f"{bucket}/runs")
    upload_export(store, local / "runs" / "hall")
    upload_export(store, local / "runs" / "hall")
    make_gaussians(local / "captures" / "hall", count=99).save(local / "new" / "hall")
    with pytest.raises(InputError, match="holds another export already: give --overwrite"):
        upload_export(store, local / "new" / "hall")
    upload_export(store, local / "new" / "hall", overwrite=True)
    [scene] = find_scenes(f"{bucket}/runs", local / "captures")
    assert len(scene.load()) == 99
