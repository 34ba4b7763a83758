"""The CPU rasteriser against its vectorised torch twin and against one matrix product of the same work.

448x336 pixels, 20,000 Gaussians, some 50 contributing to a pixel. The floor is the time of one GEMM with
2 x (contributing pairs) x D operations, the least arithmetic that blending D channels takes; backward it is one for the
features' gradient and one more where the geometry learns too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import processor as processor  # stage2 and training_step take it from here
from benchmarks.rows import Aim, Row, Setting, milliseconds
from benchmarks.timing import Spread, alternately, compare, product_floor
from fit3d_ns.lifting.operator import SparseOperator
from fit3d_ns.rasterization import EPS2D, FAR_PLANE, binning, cpu, rasterization
from fit3d_ns.rasterization.threads import kernel_launch, thread_count
from fit3d_ns.rasterization.torch_reference import rasterization_reference
from fit3d_ns.scene.render import NEAR_PLANE
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView

WIDTH, HEIGHT, COUNT = 448, 336, 20_000
GEOMETRY = ("means", "quats", "scales", "opacities")
MANY = 100_000

Inputs = dict[str, Any]
Render = Callable[..., tuple[Tensor, Tensor, dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """What is rendered, what learns, and what forward and backward are held to."""

    name: str
    channels: int
    geometry: bool
    twin: bool
    twin_aims: tuple[float, float] | None = None
    """At least so many times faster than the twin."""
    floor_aims: tuple[float, float] | None = None
    """At most so many times the floor."""


CASES = (
    Case("RGB (SH 3)", 3, geometry=True, twin=True, twin_aims=(40, 50)),
    Case("RGB+64", 67, geometry=True, twin=True, floor_aims=(4, 5)),
    Case("64, features only", 64, geometry=False, twin=False, floor_aims=(4, 3)),
    Case("384", 384, geometry=True, twin=False, floor_aims=(2.5, 3)),
    Case("384, features only", 384, geometry=False, twin=False, floor_aims=(2.5, 3)),
)


def scene(n: int = COUNT, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> dict[str, Tensor]:
    """A box of Gaussians that fills the image."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    focal = 400.0 * width / WIDTH
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return {
        "means": (uniform(n, 3) - 0.5) * torch.tensor([6.0, 4.5, 4.0]) + torch.tensor([0.0, 0.0, 5.0]),
        "quats": torch.randn(n, 4, generator=generator),
        "scales": 0.015 + 0.075 * uniform(n, 3),
        "opacities": 0.02 + 0.3 * uniform(n),
        "viewmats": torch.eye(4)[None],
        "Ks": K[None],
    }


def colors(n: int, channels: int, seed: int = 1) -> Inputs:
    """Colours of so many channels; three are spherical harmonics of degree 3."""
    generator = torch.Generator().manual_seed(seed)
    if channels == 3:
        return {"colors": torch.randn(n, 16, 3, generator=generator) * 0.3, "sh_degree": 3}
    return {"colors": torch.rand(n, channels, generator=generator)}


def contributing_pairs(inputs: dict[str, Tensor], width: int = WIDTH, height: int = HEIGHT) -> int:
    """Pixel-Gaussian pairs with a weight, the useful work of blending: the entries of the matrix that renders."""
    shape = [inputs[name] for name in GEOMETRY]
    splats = Splats(*shape, sh=torch.zeros(len(shape[0]), 1, 3))
    view = PinholeView(inputs["viewmats"][0], inputs["Ks"][0], width, height, grid=(height, width))
    return int(SparseOperator.build(splats, [view]).matrix.nnz)


def once(
    render: Render, inputs: Inputs, learns: tuple[str, ...], width: int = WIDTH, height: int = HEIGHT
) -> tuple[float, float]:
    """Seconds of forward and backward."""
    given = {
        name: value.detach().requires_grad_(name in learns) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
    # Not by torch: its threads would spin beside the backward pass.
    gradient = torch.from_numpy(np.ones((1, height, width, inputs["colors"].shape[-1]), np.float32))
    start = time.perf_counter()
    image, _, _ = render(**given, width=width, height=height)
    middle = time.perf_counter()
    image.backward(gradient)
    return middle - start, time.perf_counter() - middle


def rows_of(case: Case, base: dict[str, Tensor], pairs: int, repeats: int) -> list[Row]:
    """Forward and backward against the twin, and against the floor."""
    inputs: Inputs = {**base, **colors(len(base["means"]), case.channels)}
    learns = (*(GEOMETRY if case.geometry else ()), "colors")
    functions: list[Callable[[], Any]] = [lambda: once(rasterization, inputs, learns)]
    if case.twin:
        functions.append(lambda: once(rasterization_reference, inputs, learns))
    products = product_floor(2.0 * pairs * case.channels, case.channels, thread_count()) if case.floor_aims else []
    columns = alternately([*functions, *products], repeats)
    ours, others = columns[0], columns[1 : len(functions)]
    floors = [Spread.of(column) for column in columns[len(functions) :]]
    rows = []
    for i, direction in enumerate(("forward", "backward")):
        mine = Spread.of([timed[i] for timed in ours])
        for theirs in others:
            aim = None if case.twin_aims is None else Aim("ratio", "at most", 1 / case.twin_aims[i])
            twin = Spread.of([timed[i] for timed in theirs])
            rows.append(milliseconds(f"{case.name} {direction}", mine, twin, "torch twin", aim))
        if case.floor_aims is not None:
            aim = Aim("ratio", "at most", case.floor_aims[i])
            work = 2 if i == 1 and case.geometry else 1
            floor = min(floors, key=lambda spread: spread.least).times(work)
            what = "GEMM" if work == 1 else "2 GEMMs"
            rows.append(milliseconds(f"{case.name} {direction}", mine, floor, what, aim))
    return rows


def preparation(repeats: int) -> Row:
    """Projection, depth order and tile lists as a share of an RGB forward."""
    base = scene(MANY)
    inputs: Inputs = {**base, **colors(MANY, 3)}
    opacities = base["opacities"].numpy()

    def prepare() -> None:
        geometry = [base[name] for name in ("means", "quats", "scales", "viewmats", "Ks")]
        means2d, depths, ldl, _, _, radii = cpu.Project.apply(
            *geometry, WIDTH, HEIGHT, EPS2D, NEAR_PLANE, FAR_PLANE, 0.0
        )
        m, e, z, r = (tensor[0].numpy() for tensor in (means2d, ldl, depths, radii))
        with kernel_launch():
            binning.bin_gaussians(m, e, opacities, z, r, WIDTH, HEIGHT)

    with torch.no_grad():
        part, whole = compare(
            [prepare, lambda: rasterization(**inputs, width=WIDTH, height=HEIGHT)], 2 * repeats, warmup=2
        )
    name = f"projection, sorting and binning, {MANY:,} Gaussians"
    return milliseconds(name, part, whole, "RGB forward", Aim("ratio", "at most", 0.25))


def measure(setting: Setting) -> list[Row]:
    base = scene()
    pairs = contributing_pairs(base)
    rows = [row for case in CASES for row in rows_of(case, base, pairs, setting.repeats)]
    return [*rows, preparation(setting.repeats)]
