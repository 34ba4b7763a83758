# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""Projection of 3D Gaussians to image-plane ellipses, forward and backward (Numba).

EWA splatting (Zwicker et al. 2001; 3DGS eq. 5) with gsplat 1.4.0's conventions: field-of-view clamp of the
Jacobian, `eps2d` blur, 3-sigma radius. Scalar work per Gaussian runs in float64 (it is not vectorised, so
this is free) and is stored in float32.

An ellipse is stored as `ldl` = (a, k, d) with  sigma = a/2 (dx + k dy)^2 + d/2 dy^2.  Unlike the conic
(A, B, C) that gsplat stores, this sum of squares does not cancel for needle-like Gaussians:
a = A, k = B/A, d = C - B^2/A = 1/cov_yy.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from fit3d_ns.rasterization._part_kernels import part_range
from fit3d_ns.rasterization._perspective_kernels import affine, camera_lens, rotation


@njit(cache=True, nogil=True, error_model="numpy")
def _project_range(
    start, stop, means, quats, scales, view, K, size, limits, eps2d, means2d, depths, ldl, conics, compensations, radii
):
    width, height = size
    near, far, radius_clip = limits
    lens = camera_lens(K, size)
    fx, fy, cx, cy = lens[:4]
    v = view.astype(np.float64)
    for n in range(start, stop):
        radii[n] = 0
        depths[n] = 0.0
        compensations[n] = 0.0
        for i in range(2):
            means2d[n, i] = 0.0
        for i in range(3):
            ldl[n, i] = 0.0
            conics[n, i] = 0.0
        mx, my, mz = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
        z = v[2, 0] * mx + v[2, 1] * my + v[2, 2] * mz + v[2, 3]
        # Written so that NaN is culled too. Behind the camera nothing has an image, whatever near_plane says.
        if not (z >= near and z <= far and z > 0.0):
            continue
        x = v[0, 0] * mx + v[0, 1] * my + v[0, 2] * mz + v[0, 3]
        y = v[1, 0] * mx + v[1, 1] * my + v[1, 2] * mz + v[1, 3]
        qw, qx, qy, qz = (
            np.float64(quats[n, 0]),
            np.float64(quats[n, 1]),
            np.float64(quats[n, 2]),
            np.float64(quats[n, 3]),
        )
        squared = qw * qw + qx * qx + qy * qy + qz * qz
        if not squared > 0.0:
            continue
        r = rotation(qw, qx, qy, qz, 2.0 / squared)
        rz = 1.0 / z
        _, _, _, (t00, t01, t02), (t10, t11, t12) = affine(v, lens, x, y, z)
        cxx = 0.0
        cxy = 0.0
        cyy = 0.0
        for i in range(3):
            s = np.float64(scales[n, i])
            b0 = (t00 * r[i] + t01 * r[3 + i] + t02 * r[6 + i]) * s
            b1 = (t10 * r[i] + t11 * r[3 + i] + t12 * r[6 + i]) * s
            cxx += b0 * b0
            cxy += b0 * b1
            cyy += b1 * b1
        det_sharp = cxx * cyy - cxy * cxy
        cxx += eps2d
        cyy += eps2d
        det = cxx * cyy - cxy * cxy
        if not det > 0.0:
            continue
        mid = 0.5 * (cxx + cyy)
        radius = math.ceil(3.0 * math.sqrt(mid + math.sqrt(max(0.01, mid * mid - det))))
        u = fx * x * rz + cx
        w = fy * y * rz + cy
        if not (radius > radius_clip and u + radius > 0 and u - radius < width and w + radius > 0
                and w - radius < height):  # fmt: skip
            continue
        radii[n] = np.int32(min(radius, 2.0e9))
        means2d[n, 0] = u
        means2d[n, 1] = w
        depths[n] = z
        by_det, by_cyy = 1.0 / det, 1.0 / cyy
        ldl[n, 0] = cyy * by_det
        ldl[n, 1] = -cxy * by_cyy
        ldl[n, 2] = by_cyy
        conics[n, 0] = cyy * by_det
        conics[n, 1] = -cxy * by_det
        conics[n, 2] = cxx * by_det
        compensations[n] = math.sqrt(max(0.0, det_sharp * by_det))


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def project(
    parts, means, quats, scales, viewmats, Ks, size, limits, eps2d, means2d, depths, ldl, conics, compensations, radii
):
    """Fill the outputs ([C, N, ...]) for every camera; culled Gaussians get zeros everywhere."""
    for thread in prange(parts):
        start, stop = part_range(thread, parts, means.shape[0])
        for c in range(viewmats.shape[0]):
            _project_range(start, stop, means, quats, scales, viewmats[c], Ks[c], size, limits, eps2d, means2d[c],
                           depths[c], ldl[c], conics[c], compensations[c], radii[c])  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _project_backward_range(
    start,
    stop,
    means,
    quats,
    scales,
    view,
    K,
    size,
    eps2d,
    radii,
    g_means2d,
    g_depths,
    g_ldl,
    g_compensations,
    g_means,
    g_quats,
    g_scales,
    g_view,
):
    lens = camera_lens(K, size)
    fx, fy, right, left, bottom, top = lens[0], lens[1], lens[4], lens[5], lens[6], lens[7]
    v = view.astype(np.float64)
    V = np.empty((2, 3))
    gT = np.empty((2, 3))
    gR = np.empty(9)
    for n in range(start, stop):
        if radii[n] <= 0:
            continue
        mx, my, mz = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
        x = v[0, 0] * mx + v[0, 1] * my + v[0, 2] * mz + v[0, 3]
        y = v[1, 0] * mx + v[1, 1] * my + v[1, 2] * mz + v[1, 3]
        z = v[2, 0] * mx + v[2, 1] * my + v[2, 2] * mz + v[2, 3]
        qw, qx, qy, qz = (
            np.float64(quats[n, 0]),
            np.float64(quats[n, 1]),
            np.float64(quats[n, 2]),
            np.float64(quats[n, 3]),
        )
        norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        qw, qx, qy, qz = qw / norm, qx / norm, qy / norm, qz / norm
        r = rotation(qw, qx, qy, qz, 2.0)
        rz = 1.0 / z
        clamp_x = x * rz > right or x * rz < -left
        clamp_y = y * rz > bottom or y * rz < -top
        (tx, ty), (j00, j02), (j11, j12), (t00, t01, t02), (t10, t11, t12) = affine(v, lens, x, y, z)
        cxx = 0.0
        cxy = 0.0
        cyy = 0.0
        for i in range(3):
            s = np.float64(scales[n, i])
            V[0, i] = t00 * r[i] + t01 * r[3 + i] + t02 * r[6 + i]
            V[1, i] = t10 * r[i] + t11 * r[3 + i] + t12 * r[6 + i]
            cxx += V[0, i] * V[0, i] * s * s
            cxy += V[0, i] * V[1, i] * s * s
            cyy += V[1, i] * V[1, i] * s * s
        det_sharp = cxx * cyy - cxy * cxy
        cxx += eps2d
        cyy += eps2d
        det = cxx * cyy - cxy * cxy
        a, k, d = cyy / det, -cxy / cyy, 1.0 / cyy
        # ldl -> 2D covariance (off-diagonal counted once): a = cyy/det, k = -cxy/cyy, d = 1/cyy.
        ga, gk, gd = np.float64(g_ldl[n, 0]), np.float64(g_ldl[n, 1]), np.float64(g_ldl[n, 2])
        gxx = -a * a * ga
        gxy = -2.0 * k * a * a * ga - d * gk
        gyy = -k * k * a * a * ga - k * d * gk - d * d * gd
        g_comp = np.float64(g_compensations[n])
        if g_comp != 0.0:
            # gsplat's add_blur_vjp, with its 1e-6 against a vanishing compensation.
            comp = math.sqrt(max(0.0, det_sharp / det))
            g_ratio = 0.5 * g_comp / (comp + 1e-6)
            rest = 1.0 - comp * comp
            gxx += g_ratio * (rest * cyy - eps2d) / det
            gyy += g_ratio * (rest * cxx - eps2d) / det
            gxy += g_ratio * (-2.0 * rest * cxy) / det
        for i in range(9):
            gR[i] = 0.0
        for i in range(2):
            for j in range(3):
                gT[i, j] = 0.0
        for i in range(3):
            s = np.float64(scales[n, i])
            b0, b1 = V[0, i] * s, V[1, i] * s
            gb0 = 2.0 * gxx * b0 + gxy * b1
            gb1 = 2.0 * gyy * b1 + gxy * b0
            g_scales[n, i] += gb0 * V[0, i] + gb1 * V[1, i]
            gb0 *= s
            gb1 *= s
            gR[i] = t00 * gb0 + t10 * gb1
            gR[3 + i] = t01 * gb0 + t11 * gb1
            gR[6 + i] = t02 * gb0 + t12 * gb1
            for j in range(3):
                gT[0, j] += gb0 * r[3 * j + i]
                gT[1, j] += gb1 * r[3 * j + i]
        gw = 2.0 * (qx * (gR[7] - gR[5]) + qy * (gR[2] - gR[6]) + qz * (gR[3] - gR[1]))
        gx = 2.0 * (-2.0 * qx * (gR[4] + gR[8]) + qy * (gR[3] + gR[1]) + qz * (gR[6] + gR[2]) + qw * (gR[7] - gR[5]))
        gy = 2.0 * (qx * (gR[3] + gR[1]) - 2.0 * qy * (gR[0] + gR[8]) + qz * (gR[7] + gR[5]) + qw * (gR[2] - gR[6]))
        gz = 2.0 * (qx * (gR[6] + gR[2]) + qy * (gR[7] + gR[5]) - 2.0 * qz * (gR[0] + gR[4]) + qw * (gR[3] - gR[1]))
        along = gw * qw + gx * qx + gy * qy + gz * qz
        g_quats[n, 0] += (gw - along * qw) / norm
        g_quats[n, 1] += (gx - along * qx) / norm
        g_quats[n, 2] += (gy - along * qy) / norm
        g_quats[n, 3] += (gz - along * qz) / norm
        gj00 = gT[0, 0] * v[0, 0] + gT[0, 1] * v[0, 1] + gT[0, 2] * v[0, 2]
        gj02 = gT[0, 0] * v[2, 0] + gT[0, 1] * v[2, 1] + gT[0, 2] * v[2, 2]
        gj11 = gT[1, 0] * v[1, 0] + gT[1, 1] * v[1, 1] + gT[1, 2] * v[1, 2]
        gj12 = gT[1, 0] * v[2, 0] + gT[1, 1] * v[2, 1] + gT[1, 2] * v[2, 2]
        gu, gv = np.float64(g_means2d[n, 0]), np.float64(g_means2d[n, 1])
        rz2 = rz * rz
        rz3 = rz2 * rz
        gcx = fx * rz * gu
        gcy = fy * rz * gv
        gcz = -(fx * x * gu + fy * y * gv) * rz2 + np.float64(g_depths[n])
        gcz += -fx * rz2 * gj00 - fy * rz2 * gj11 + 2.0 * fx * tx * rz3 * gj02 + 2.0 * fy * ty * rz3 * gj12
        if clamp_x:
            gcz -= fx * tx * rz3 * gj02
        else:
            gcx -= fx * rz2 * gj02
        if clamp_y:
            gcz -= fy * ty * rz3 * gj12
        else:
            gcy -= fy * rz2 * gj12
        for i in range(3):
            g_means[n, i] += v[0, i] * gcx + v[1, i] * gcy + v[2, i] * gcz
            m = np.float64(means[n, i])
            g_view[0, i] += gcx * m + j00 * gT[0, i]
            g_view[1, i] += gcy * m + j11 * gT[1, i]
            g_view[2, i] += gcz * m + j02 * gT[0, i] + j12 * gT[1, i]
        g_view[0, 3] += gcx
        g_view[1, 3] += gcy
        g_view[2, 3] += gcz


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def project_backward(
    parts,
    means,
    quats,
    scales,
    viewmats,
    Ks,
    size,
    eps2d,
    radii,
    g_means2d,
    g_depths,
    g_ldl,
    g_compensations,
    g_means,
    g_quats,
    g_scales,
    g_views,
):
    """Add to g_means, g_quats, g_scales; g_views is [parts, C, 4, 4] float64, to be summed over parts."""
    for thread in prange(parts):
        part = np.int64(thread)
        start, stop = part_range(thread, parts, means.shape[0])
        for c in range(viewmats.shape[0]):
            _project_backward_range(
                start, stop, means, quats, scales, viewmats[c], Ks[c], size, eps2d, radii[c], g_means2d[c],
                g_depths[c], g_ldl[c], g_compensations[c], g_means, g_quats, g_scales, g_views[part, c])  # fmt: skip
