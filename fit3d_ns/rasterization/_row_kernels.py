# mypy: disable-error-code=no-untyped-def
"""One Gaussian over the rows of one tile, as Numba intrinsics: the arithmetic of blending, in one place.

3DGS eq. 3 with gsplat 1.4.0's constants: alpha is clamped at 0.999, contributions below 1/255 are skipped, a pixel ends
before the Gaussian that would bring its transmittance to 1e-4 or less. A row of a tile is one vector of 16 pixels.

The transmittance of a finished pixel is kept with a minus sign, which makes every later test on it fail. Backward
passes walk front to back too: transmittance and alpha come out exactly as in the forward pass, and what lies behind a
Gaussian is the pixel's final colour less what has been blended so far.

All take a packed Gaussian (`_binning_kernels.pack`) at packed[o:], the centre (fx0, fy0) of the tile's first pixel, the
rows that still have unfinished pixels (live [16]), and the tile's state, flat planes of [16, 16] floats, the first of
which is the transmittance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from numba import types
from numba.extending import intrinsic

from fit3d_ns.rasterization._microkernels import HALF_ROW, ROW
from fit3d_ns.rasterization._vector_code import Code, Floats, Ints, Variable, vector_function
from fit3d_ns.rasterization._vector_values import Value, lane_sums, select

MAX_ALPHA = 0.999
MIN_T = 1e-4
PIXELS = ROW * ROW
# exp(-8x) = p(x)^8 for 0 <= x <= 0.72 (opacity <= 1 needs ln(255)/8 = 0.693), relative error 2e-6 in float32.
_EXP = (
    0.9999999058849154,
    -0.9999914347720185,
    0.499869163089888,
    -0.16591689515474148,
    0.03967375461723558,
    -0.005787095115466059,
)
# Outside its range the polynomial passes zero, and subnormal numbers cost a hundred times more than others.
_X_CLAMP = 0.72
GRADS = 16
"""Floats kept per Gaussian in the backward pass, 12 of them used: a cache line. See `scatter_gradients`."""

PLANE = PIXELS + ROW
"""From one plane of a state to the next; not 1024 bytes, as addresses that agree in 12 bits get in each other's way."""
COLOR_PLANE = PLANE
"""Forward: four planes of colour from here on."""
REST_PLANE = PLANE
"""Backward: what is left of (colour . gradient)."""
GRADIENT_PLANE = 2 * PLANE
"""Backward of up to four colours: four planes of the image's gradient from here on."""


@dataclass
class _Row:
    """One row of the tile, where a Gaussian reaches it: distances are in pixels, pixel 0 is at the tile's left."""

    index: Value
    dy: Value
    ux: Value
    """Where the row cuts the ellipse's axis of symmetry."""
    q: Value
    """The row's share of the exponent / 8."""

    @property
    def start(self) -> Value:
        """Of the row in a plane."""
        return self.index * ROW


class _Ellipse:
    """A packed Gaussian in the coordinates of a tile."""

    def __init__(self, code: Code, packed: Floats, o: Value, fx0: Value, fy0: Value) -> None:
        self.code = code
        self.mx, self.my = packed.number(o) - fx0, packed.number(o + 1) - fy0
        self.ha, self.k, self.hd, self.opacity, self.x_max, self.reach = (packed.number(o + i) for i in range(2, 8))
        self.colors = [packed.number(o + i) for i in range(8, 12)]

    @contextmanager
    def rows(self) -> Iterator[tuple[_Row, Value]]:
        """Loop over the rows of the tile within its height, with whether the ellipse reaches a pixel of the row."""
        first = (self.my - self.reach).at_least(0.0).to_index()
        last = (self.my + self.reach).at_most(ROW - 1.0).to_index()
        with self.code.loop(first, last + 1) as r:
            dy = self.my - r.to_float()
            row = _Row(r, dy, self.mx + self.k * dy, self.hd * dy * dy)
            nearest = row.ux - row.ux.at_least(0.0).at_most(ROW - 1.0)
            yield row, self.ha * nearest * nearest + row.q <= self.x_max


@dataclass
class _Pixels:
    """What a Gaussian does to the 16 pixels of a row."""

    u: Value
    raw: Value
    """alpha before the clamp."""
    alpha: Value
    before: Value
    """Transmittance in front of the Gaussian."""
    weight: Value
    counts: Value
    """Mask of the pixels with a weight."""


def _blend_row(code: Code, ellipse: _Ellipse, row: _Row, state: Floats) -> _Pixels:
    """Move the transmittance of a row on."""
    u = row.ux - code.constant(*range(ROW))
    x = (ellipse.ha * u * u + row.q).at_most(_X_CLAMP)
    e = _EXP[-1] * x + _EXP[-2]
    for coefficient in _EXP[-3::-1]:
        e = e * x + coefficient
    for _ in range(3):
        e = e * e
    raw = ellipse.opacity * e
    alpha = raw.at_most(MAX_ALPHA)
    before = state.vector(row.start, ROW)
    weight = before * alpha
    after = before - weight
    hit = x <= ellipse.x_max
    counts = hit & (after > MIN_T)
    # Not a choice between `before` and something else: LLVM would make that a masked store, and the next load of the
    # row, by the next Gaussian, would have to wait for it to reach the cache.
    state.store(row.start, select(counts, after, before.negative_where(hit)))
    return _Pixels(u, raw, alpha, before, select(counts, weight, 0.0), counts)


def _geometry_terms(ellipse: _Ellipse, row: _Row, pixels: _Pixels, state: Floats, cg: Value) -> list[Value]:
    """What a row adds to the eight sums of the geometry's gradient; cg: gradient of the weights."""
    rest = state.vector(row.start + REST_PLANE, ROW) - pixels.weight * cg
    state.store(row.start + REST_PLANE, rest)
    # d loss / d sigma; a clamped alpha does not depend on the geometry.
    v = 0.0 - pixels.raw * (pixels.before * cg - rest / (1.0 - pixels.alpha))
    v = select(pixels.counts & (pixels.raw <= MAX_ALPHA), v, 0.0)
    vu, vy = v * pixels.u, v * row.dy
    gx = (16.0 * ellipse.ha) * vu
    gy = ellipse.k * gx + v * ((16.0 * ellipse.hd) * row.dy)
    return [v, vu, vu * pixels.u, vy, vu * row.dy, vy * row.dy, abs(gx), abs(gy)]


def _add_sums(sums: Sequence[Variable], grads: Floats, at: Value) -> None:
    grads.store(at, grads.vector(at, GRADS) + lane_sums([total.get() for total in sums], GRADS))


def _zeros(code: Code, count: int) -> list[Variable]:
    return [Variable(code.constant(*[0.0] * ROW)) for _ in range(count)]


@intrinsic
def live_rows(typingctx, state, live):
    """Mark the rows that still have an unfinished pixel; returns how many."""
    return vector_function(_live_rows, state, live, returns=types.int64)


def _live_rows(code, state, live):
    total = code.index(0)
    for r in range(ROW):
        alive = ((state.vector(r * ROW, ROW) > 0.0).mask_bits() > 0).mask_bits()
        live.store(r, alive)
        total = total + alive
    return total


@intrinsic
def blend_colors(typingctx, packed, o, fx0, fy0, live, state):
    """Blend up to four colours; state: transmittance and the four planes of `COLOR_PLANE`."""
    return vector_function(_blend_colors, packed, o, fx0, fy0, live, state)


def _blend_colors(code, packed, o, fx0, fy0, live, state):
    ellipse = _Ellipse(code, packed, o, fx0, fy0)
    with ellipse.rows() as (row, reached), code.when(reached & (live.number(row.index) > 0)):
        pixels = _blend_row(code, ellipse, row, state)
        for c, color in enumerate(ellipse.colors):
            at = row.start + (COLOR_PLANE + c * PLANE)
            state.store(at, state.vector(at, ROW) + pixels.weight * color)


@intrinsic
def blend_colors_backward(typingctx, packed, o, fx0, fy0, live, state, grads, slot):
    """Add the gradients of one Gaussian with up to four colours to grads[16 slot:].

    state: transmittance, `REST_PLANE` and the planes of `GRADIENT_PLANE`.
    """
    return vector_function(_blend_colors_backward, packed, o, fx0, fy0, live, state, grads, slot)


def _blend_colors_backward(code, packed, o, fx0, fy0, live, state, grads, slot):
    ellipse = _Ellipse(code, packed, o, fx0, fy0)
    sums = _zeros(code, 8 + len(ellipse.colors))
    with ellipse.rows() as (row, reached), code.when(reached & (live.number(row.index) > 0)):
        gradients = [state.vector(row.start + (GRADIENT_PLANE + c * PLANE), ROW) for c in range(len(ellipse.colors))]
        cg = ellipse.colors[0] * gradients[0]
        for color, gradient in zip(ellipse.colors[1:], gradients[1:], strict=True):
            cg = cg + color * gradient
        pixels = _blend_row(code, ellipse, row, state)
        terms = _geometry_terms(ellipse, row, pixels, state, cg)
        for total, term in zip(sums, [*terms, *(pixels.weight * g for g in gradients)], strict=True):
            total.add(term)
    _add_sums(sums, grads, slot * GRADS)


def _keep(row: _Row, pixels: _Pixels, target: Value, capacity: Value, rows: Ints, counts: Ints, weights: Floats):
    """Append the weights of a row to the lists of its halves, where they have any."""
    bits = pixels.counts.mask_bits()
    for half in range(2):
        number = row.index * 2 + half
        count = counts.number(number)
        at = number * capacity + count
        # Written in any case: where nothing counts, the next entry takes the place.
        weights.store(at * HALF_ROW, pixels.weight.part(half * HALF_ROW, HALF_ROW))
        rows.store(at, target)
        some = ((bits >> (half * HALF_ROW)) & (2**HALF_ROW - 1)) > 0
        counts.store(number, count + some.mask_bits())


@intrinsic
def collect_weights(typingctx, packed, o, fx0, fy0, live, state, target, capacity, rows, counts, weights):
    """Append the weights of one Gaussian to the lists of the half rows that it reaches (`_microkernels.add_outer`).

    target: what to write into `rows` for it; lists must have room for one more.
    """
    return vector_function(_collect_weights, packed, o, fx0, fy0, live, state, target, capacity, rows, counts, weights)


def _collect_weights(code, packed, o, fx0, fy0, live, state, target, capacity, rows, counts, weights):
    ellipse = _Ellipse(code, packed, o, fx0, fy0)
    with ellipse.rows() as (row, reached), code.when(reached & (live.number(row.index) > 0)):
        _keep(row, _blend_row(code, ellipse, row, state), target, capacity, rows, counts, weights)


@intrinsic
def reached_rows(typingctx, packed, o, fx0, fy0, target, capacity, rows, reached):
    """Append `target` to the list of every row of the tile that one Gaussian reaches; rows: [16, capacity]."""
    return vector_function(_reached_rows, packed, o, fx0, fy0, target, capacity, rows, reached)


def _reached_rows(code, packed, o, fx0, fy0, target, capacity, rows, reached):
    with _Ellipse(code, packed, o, fx0, fy0).rows() as (row, hit):
        count = reached.number(row.index)
        rows.store(row.index * capacity + count, target)
        reached.store(row.index, count + hit.mask_bits())


@intrinsic
def collect_weights_backward(
    typingctx,
    packed,
    o,
    fx0,
    fy0,
    live,
    state,
    target,
    capacity,
    rows,
    counts,
    weights,
    g_weights,
    reached,
    grads,
    slot,
):
    """As `collect_weights`, and add the geometry's gradients to grads[16 slot:].

    state: transmittance and `REST_PLANE`. g_weights: [16, capacity, 16], gradients of the weights in the order of
    `reached_rows`; reached [16]: how many of each row were taken.
    """
    return vector_function(_collect_weights_backward, packed, o, fx0, fy0, live, state, target, capacity, rows, counts,
                           weights, g_weights, reached, grads, slot)  # fmt: skip


def _collect_weights_backward(code, packed, o, fx0, fy0, live, state, target, capacity, rows, counts, weights,
                              g_weights, reached, grads, slot):  # fmt: skip
    ellipse = _Ellipse(code, packed, o, fx0, fy0)
    sums = _zeros(code, 8)
    with ellipse.rows() as (row, hit), code.when(hit):
        taken = reached.number(row.index)
        reached.store(row.index, taken + 1)
        with code.when(live.number(row.index) > 0):
            cg = g_weights.vector((row.index * capacity + taken) * ROW, ROW)
            pixels = _blend_row(code, ellipse, row, state)
            for total, term in zip(sums, _geometry_terms(ellipse, row, pixels, state, cg), strict=True):
                total.add(term)
            _keep(row, pixels, target, capacity, rows, counts, weights)
    _add_sums(sums, grads, slot * GRADS)
