"""Every reader of a file that others may have written gives a value or an `InputError`, whatever the file says.

FIT3D_FUZZ_EXAMPLES=100000 pytest tests/bad_input/test_fuzz.py looks longer.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.files import read_classes
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.training.checkpoint import recorded_run
from fit3d_ns.capture.checks import check_transforms
from fit3d_ns.capture.images import load_image, load_mask, read_header
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.adapter import read_adapter
from fit3d_ns.features.weights import read_folder_config
from fit3d_ns.method.runs import load_state, read_config
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.ply import read_splat_ply
from tests.bad_input.catalogue import RUN

EXAMPLES = int(os.environ.get("FIT3D_FUZZ_EXAMPLES", "60"))
LIMITS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Reader:
    """A file of the world and what reads it (given the file's path)."""

    file: str
    read: Callable[[Path], object]

    def __str__(self) -> str:
        return Path(self.file).name


JSON_READERS = [
    Reader("runs/attic/scene.json", lambda path: FeatureGaussians.load(path.parent)),
    Reader("room/transforms.json", lambda path: read_data([str(path.parent)])),
    Reader("room/classes.json", lambda path: read_classes(path.parent, required=True)),
    Reader("capture/transforms.json", check_transforms),
    Reader("finetuned/fit3d.json", lambda path: read_finetuned(path.parent)),
    Reader("finetuned/config.json", lambda path: read_folder_config(path.parent)),
    Reader("probe/results.json", ProbeResults.load),
]
BINARY_READERS = [
    Reader("runs/attic/gaussians.safetensors", lambda path: FeatureGaussians.load(path.parent)),
    Reader("runs/attic/splat.ply", read_splat_ply),
    Reader("finetuned/model.safetensors", read_adapter),
    Reader("finetuned/model.safetensors", recorded_run),
    Reader("room/images/frame_000.png", load_image),
    Reader("room/images/frame_000.png", read_header),
    Reader("room/semantic/frame_000.png", lambda path: load_mask(path, (64, 48))),
    Reader("photos/0.jpg", load_image),
    Reader(f"{RUN}/config.yml", read_config),
    Reader(f"{RUN}/nerfstudio_models/step-000000019.ckpt", load_state),
]

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield way
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*way, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 3)):
            yield from places(value[index], (*way, index))


@st.composite
def spoiled_json(draw: st.DrawFn, text: str) -> bytes:
    """The text with up to three of its values replaced or left out."""
    data = copy.deepcopy(json.loads(text))
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(list(places(data))))
        if not way:
            data = draw(VALUES)
            break
        holder = data
        for key in way[:-1]:
            holder = holder[key]
        if draw(st.integers(0, 4)) == 0:
            del holder[way[-1]]
        else:
            holder[way[-1]] = draw(VALUES)
    return json.dumps(data).encode()


@st.composite
def spoiled_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with some changed, put in, left out, or cut off; most often near the front, where headers are."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        end = min(len(found), draw(st.sampled_from([16, 256, 4096, max(len(found), 1)])))
        place = draw(st.integers(0, max(end - 1, 0)))
        match draw(st.sampled_from(["change", "put in", "leave out", "cut"])):
            case "change" if found:
                found[place] = draw(st.integers(0, 255))
            case "put in":
                found[place:place] = draw(st.binary(max_size=16))
            case "leave out":
                del found[place : place + draw(st.integers(1, 16))]
            case "cut":
                del found[place:]
    return bytes(found)


@pytest.fixture
def around(world: Path, tmp_path: Path) -> Callable[[Reader], Path]:
    """Copy what lies around a reader's file; gives the file."""
    import shutil

    def copied(reader: Reader) -> Path:
        top = Path(reader.file).parts[0]
        shutil.copytree(world / top, tmp_path / top)
        return tmp_path / reader.file

    return copied


def look(reader: Reader, path: Path, spoiled: st.SearchStrategy[bytes]) -> None:
    """Give a reader such files, one after the other; an `InputError` is an answer."""

    @LIMITS
    @given(spoiled)
    def read(content: bytes) -> None:
        path.write_bytes(content)
        with suppress(InputError):
            reader.read(path)

    read()


@pytest.mark.parametrize("reader", JSON_READERS, ids=str)
def test_spoiled_json_is_a_value_or_an_input_error(reader: Reader, around: Callable[[Reader], Path]) -> None:
    path = around(reader)
    look(reader, path, spoiled_json(path.read_text()))


@pytest.mark.parametrize("reader", BINARY_READERS, ids=str)
def test_spoiled_files_are_a_value_or_an_input_error(reader: Reader, around: Callable[[Reader], Path]) -> None:
    path = around(reader)
    look(reader, path, spoiled_bytes(path.read_bytes()))


def test_what_escapes_would_be_noticed(around: Callable[[Reader], Path]) -> None:
    reader = Reader("room/classes.json", lambda path: json.loads(path.read_text())[0].upper())
    with pytest.raises((AttributeError, TypeError, IndexError, KeyError, ValueError, BaseExceptionGroup)) as found:
        test_spoiled_json_is_a_value_or_an_input_error(reader, around)
    assert not isinstance(found.value, InputError)
