"""The standard 3DGS point file (`splat.ply`), as the reference implementation writes and viewers read it.

Binary little endian, one float32 per property, in this order: position x y z, an unused normal nx ny nz, the
constant SH coefficients f_dc_* of R, G, B, the others f_rest_* (all of R, then all of G, then all of B), the logit
of the opacity, the logarithms of the scales, and the quaternion rot_* (w x y z).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from fit3d_ns.common.errors import InputError
from fit3d_ns.rasterization import RasterizeMode
from fit3d_ns.scene.splats import TENSORS, Splats

Array = np.ndarray[Any, np.dtype[Any]]

_ROWS_AT_ONCE = 1 << 17
"""Rows converted at a time, so that writing a million Gaussians takes 30 MB and not 250."""

_OPACITY_MARGIN = 1e-7
"""Opacities are kept this far from 0 and 1, where the logit is infinite."""

_TYPES = {
    **dict.fromkeys(("float", "float32"), "<f4"),
    **dict.fromkeys(("double", "float64"), "<f8"),
    **dict.fromkeys(("char", "int8"), "<i1"),
    **dict.fromkeys(("uchar", "uint8"), "<u1"),
    **dict.fromkeys(("short", "int16"), "<i2"),
    **dict.fromkeys(("ushort", "uint16"), "<u2"),
    **dict.fromkeys(("int", "int32"), "<i4"),
    **dict.fromkeys(("uint", "uint32"), "<u4"),
}


def write_splat_ply(path: Path, splats: Splats) -> None:
    """Write Gaussians (on the CPU) as a standard 3DGS PLY file; see the module for the layout."""
    count, coefficients = splats.sh.shape[:2]
    names = _property_names(coefficients)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    with open(path, "wb") as file:
        file.write("\n".join(header).encode("ascii"))
        for start in range(0, count, _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            file.write(_to_rows(splats, rows, len(names)).tobytes())


def read_splat_ply(path: Path, rasterize_mode: RasterizeMode = "classic") -> Splats:
    """Read a 3DGS PLY file (binary little endian; any order of properties; further properties are ignored).

    Args:
        path: the file.
        rasterize_mode: how its Gaussians were trained, which the file does not say.

    Raises:
        InputError: the file is missing, truncated, or no 3DGS file, or a value is not finite.
    """
    try:
        with open(path, "rb") as file:
            dtype, count = _read_header(file, path)
            expected, present = dtype.itemsize * count, os.fstat(file.fileno()).st_size - file.tell()
            if present < expected:
                raise InputError(
                    f"{path} is truncated ({present} of {expected} bytes of data); write or download it again."
                )
            vertices = np.fromfile(file, dtype=dtype, count=count)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error

    def columns(*names: str) -> Array:
        missing = [name for name in names if name not in (dtype.names or ())]
        if missing:
            raise InputError(f"{path} has no property {missing[0]!r}; give a PLY file of 3D Gaussians.")
        values = np.stack([vertices[name].astype(np.float32) for name in names], axis=1)
        if not np.isfinite(values).all():
            raise InputError(f"{path} has NaN or infinite values of {', '.join(names[:3])}; write or train it again.")
        return values

    rest = sum(name.startswith("f_rest_") for name in dtype.names or ())
    if rest % 3 or (rest // 3 + 1) not in (1, 4, 9, 16, 25):
        raise InputError(f"{path} has {rest} f_rest properties, which fit no SH degree; write it again.")
    sh = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest:
        higher = columns(*(f"f_rest_{i}" for i in range(rest))).reshape(count, 3, rest // 3)
        sh = np.concatenate([sh, higher.transpose(0, 2, 1)], axis=1)
    logits = columns("opacity")[:, 0].astype(np.float64)
    with np.errstate(over="ignore"):  # exp overflows to infinity for opacity 0, which is right
        opacities = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
    return Splats(
        means=torch.from_numpy(columns("x", "y", "z")),
        quats=torch.from_numpy(columns("rot_0", "rot_1", "rot_2", "rot_3")),
        scales=torch.from_numpy(np.exp(columns("scale_0", "scale_1", "scale_2"))),
        opacities=torch.from_numpy(opacities),
        sh=torch.from_numpy(sh),
        rasterize_mode=rasterize_mode,
    )


def _property_names(coefficients: int) -> list[str]:
    rest = 3 * (coefficients - 1)
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def _to_rows(splats: Splats, rows: slice, width: int) -> Array:
    means, quats, scales, opacities, sh = (getattr(splats, name)[rows].numpy() for name in TENSORS)
    table = np.zeros((len(means), width), dtype="<f4")
    table[:, 0:3] = means
    table[:, 6:9] = sh[:, 0]
    table[:, 9 : width - 8] = sh[:, 1:].transpose(0, 2, 1).reshape(len(means), width - 17)
    opacities = opacities.astype(np.float64).clip(_OPACITY_MARGIN, 1.0 - _OPACITY_MARGIN)
    table[:, -8] = np.log(opacities) - np.log1p(-opacities)
    table[:, -7:-4] = np.log(scales)
    table[:, -4:] = quats
    return table


def _read_header(file: BinaryIO, path: Path) -> tuple[np.dtype[Any], int]:
    """Record type and number of the vertices; leaves `file` at their first byte."""
    refused = InputError(f"{path} is not a binary little-endian PLY file of vertices; give a 3DGS splat file.")
    if file.readline(16).strip() != b"ply":
        raise refused
    count = -1
    fields: list[tuple[str, str]] = []
    for line in iter(lambda: file.readline(1024), b""):
        match line.decode("ascii", errors="replace").split():
            case ["end_header"]:
                if count < 0 or not fields or len(dict(fields)) < len(fields):
                    raise refused
                return np.dtype(fields), count
            case ["format", kind, _] if kind == "binary_little_endian":
                pass
            case ["element", "vertex", number] if number.isdecimal() and count < 0:
                count = int(number)
            case ["property", kind, name] if kind in _TYPES and count >= 0:
                fields.append((name, _TYPES[kind]))
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                # Lists and elements other than vertices do not occur in splat files.
                raise refused
    raise refused
