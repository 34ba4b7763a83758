# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""Spherical harmonics of degree 0-3 to view-dependent colour, forward and backward (Numba).

Bases in the order and sign of 3DGS and gsplat 1.4.0 (Sloan, JCGT 2013); colour = max(SH + 0.5, 0).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from fit3d_ns.rasterization._part_kernels import part_range


@njit(cache=True, nogil=True, error_model="numpy")
def _bases(degree, x, y, z, b):
    b[0] = 0.2820947917738781
    if degree > 0:
        b[1] = -0.48860251190292 * y
        b[2] = 0.48860251190292 * z
        b[3] = -0.48860251190292 * x
    if degree > 1:
        b[4] = 1.092548430592079 * x * y
        b[5] = -1.092548430592079 * y * z
        b[6] = 0.9461746957575601 * z * z - 0.3153915652525201
        b[7] = -1.092548430592079 * x * z
        b[8] = 0.5462742152960395 * (x * x - y * y)
    if degree > 2:
        b[9] = -0.5900435899266435 * y * (3 * x * x - y * y)
        b[10] = 2.890611442640554 * x * y * z
        b[11] = y * (0.4570457994644658 - 2.285228997322329 * z * z)
        b[12] = z * (1.865881662950577 * z * z - 1.119528997770346)
        b[13] = x * (0.4570457994644658 - 2.285228997322329 * z * z)
        b[14] = 1.445305721320277 * z * (x * x - y * y)
        b[15] = -0.5900435899266435 * x * (x * x - 3 * y * y)


@njit(cache=True, nogil=True, error_model="numpy")
def _direction_gradient(degree, x, y, z, p):
    """Gradient of sum_k p[k] * basis[k] with respect to (x, y, z)."""
    gx = 0.0
    gy = 0.0
    gz = 0.0
    if degree > 0:
        gx -= 0.48860251190292 * p[3]
        gy -= 0.48860251190292 * p[1]
        gz += 0.48860251190292 * p[2]
    if degree > 1:
        gx += 1.092548430592079 * (y * p[4] - z * p[7] + x * p[8])
        gy += 1.092548430592079 * (x * p[4] - z * p[5] - y * p[8])
        gz += -1.092548430592079 * (y * p[5] + x * p[7]) + 1.8923493915151202 * z * p[6]
    if degree > 2:
        f = 0.4570457994644658 - 2.285228997322329 * z * z
        gx += -3.540261539559861 * x * y * p[9] + 2.890611442640554 * z * (y * p[10] + x * p[14]) + f * p[13]
        gx -= 1.7701307697799305 * (x * x - y * y) * p[15]
        gy += -1.7701307697799305 * (x * x - y * y) * p[9] + 2.890611442640554 * z * (x * p[10] - y * p[14]) + f * p[11]
        gy += 3.540261539559861 * x * y * p[15]
        gz += 2.890611442640554 * x * y * p[10] - 4.570457994644658 * z * (y * p[11] + x * p[13])
        gz += (5.597645988851731 * z * z - 1.119528997770346) * p[12] + 1.445305721320277 * (x * x - y * y) * p[14]
    return gx, gy, gz


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def sh_colors(parts, degree, means, centers, coefficients, radii, colors):
    """colors [C, N, 3] of the Gaussians with radii > 0, zero for others; coefficients [1 or C, N, K, 3]."""
    n_all = means.shape[0]
    shared = coefficients.shape[0] == 1
    for thread in prange(parts):
        b = np.zeros(16)
        for c in range(centers.shape[0]):
            sh = coefficients[0 if shared else c]
            first, last = part_range(thread, parts, n_all)
            for n in range(first, last):
                colors[c, n, 0] = colors[c, n, 1] = colors[c, n, 2] = np.float32(0.0)
                if radii[c, n] <= 0:
                    continue
                x = np.float64(means[n, 0]) - centers[c, 0]
                y = np.float64(means[n, 1]) - centers[c, 1]
                z = np.float64(means[n, 2]) - centers[c, 2]
                inv = 1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
                _bases(degree, x * inv, y * inv, z * inv, b)
                c0, c1, c2 = 0.5, 0.5, 0.5
                for k in range((degree + 1) * (degree + 1)):
                    c0 += b[k] * sh[n, k, 0]
                    c1 += b[k] * sh[n, k, 1]
                    c2 += b[k] * sh[n, k, 2]
                colors[c, n, 0] = max(c0, 0.0)
                colors[c, n, 1] = max(c1, 0.0)
                colors[c, n, 2] = max(c2, 0.0)


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def sh_colors_backward(
    parts, degree, means, centers, coefficients, radii, colors, g_colors, g_coefficients, g_means, g_centers
):
    """Add to g_coefficients and g_means; g_centers is [parts, C, 3] float64, to be summed over parts."""
    n_all = means.shape[0]
    shared = coefficients.shape[0] == 1
    for thread in prange(parts):
        part = np.int64(thread)
        b = np.zeros(16)
        p = np.zeros(16)
        for c in range(centers.shape[0]):
            sh = coefficients[0 if shared else c]
            g_sh = g_coefficients[0 if shared else c]
            first, last = part_range(thread, parts, n_all)
            for n in range(first, last):
                if radii[c, n] <= 0:
                    continue
                # A colour clamped at zero passes no gradient.
                g0 = g_colors[c, n, 0] if colors[c, n, 0] > 0 else np.float32(0.0)
                g1 = g_colors[c, n, 1] if colors[c, n, 1] > 0 else np.float32(0.0)
                g2 = g_colors[c, n, 2] if colors[c, n, 2] > 0 else np.float32(0.0)
                if g0 == 0 and g1 == 0 and g2 == 0:
                    continue
                x = np.float64(means[n, 0]) - centers[c, 0]
                y = np.float64(means[n, 1]) - centers[c, 1]
                z = np.float64(means[n, 2]) - centers[c, 2]
                inv = 1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
                x *= inv
                y *= inv
                z *= inv
                _bases(degree, x, y, z, b)
                for k in range((degree + 1) * (degree + 1)):
                    p[k] = sh[n, k, 0] * g0 + sh[n, k, 1] * g1 + sh[n, k, 2] * g2
                    g_sh[n, k, 0] += b[k] * g0
                    g_sh[n, k, 1] += b[k] * g1
                    g_sh[n, k, 2] += b[k] * g2
                gx, gy, gz = _direction_gradient(degree, x, y, z, p)
                along = gx * x + gy * y + gz * z
                gx = (gx - along * x) * inv
                gy = (gy - along * y) * inv
                gz = (gz - along * z) * inv
                g_means[n, 0] += gx
                g_means[n, 1] += gy
                g_means[n, 2] += gz
                g_centers[part, c, 0] -= gx
                g_centers[part, c, 1] -= gy
                g_centers[part, c, 2] -= gz
