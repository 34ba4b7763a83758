"""What CUDA tensors make of a call: gsplat's own, with the same arguments. Needs no GPU: the tensors hold nothing."""

from __future__ import annotations

import inspect
from typing import Any

import gsplat.rendering
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fit3d_ns.rasterization import rasterization

OPTIONS: dict[str, Any] = {
    "near_plane": 0.2,
    "far_plane": 50.0,
    "radius_clip": 1.5,
    "eps2d": 0.1,
    "sh_degree": 2,
    "tile_size": 16,
    "render_mode": "RGB+ED",
    "absgrad": True,
    "rasterize_mode": "antialiased",
    "channel_chunk": 8,
}
SHAPES = {
    "means": (7, 3),
    "quats": (7, 4),
    "scales": (7, 3),
    "opacities": (7,),
    "colors": (7, 9, 3),
    "viewmats": (2, 4, 4),
    "Ks": (2, 3, 3),
    "backgrounds": (2, 3),
}


def test_cuda_tensors_go_to_gsplat_with_every_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    signature, given = inspect.signature(gsplat.rendering.rasterization), dict[str, Any]()

    def remember(*args: Any, **kwargs: Any) -> str:
        given.update(signature.bind(*args, **kwargs).arguments)
        return "gsplat's answer"

    monkeypatch.setattr(gsplat.rendering, "rasterization", remember)
    with FakeTensorMode():
        tensors = {name: torch.empty(shape, device="cuda") for name, shape in SHAPES.items()}
        answer = rasterization(**tensors, width=20, height=10, **OPTIONS)
    assert answer == "gsplat's answer"
    for name, value in {**tensors, **OPTIONS, "width": 20, "height": 10, "packed": False}.items():
        assert given[name] is value, name


def test_arguments_have_gsplats_order_and_defaults_but_for_two() -> None:
    theirs = inspect.signature(gsplat.rendering.rasterization).parameters
    ours = inspect.signature(rasterization).parameters
    assert list(ours) == list(theirs)[: len(ours)]
    differs = [name for name in ours if ours[name].default != theirs[name].default]
    assert differs == ["packed", "channel_chunk"]  # None: as few passes as can be
