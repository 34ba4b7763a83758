"""`fit3d_ns.rasterization` is the rasteriser's package and can be called as its function, whatever came first."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import fit3d_ns
from fit3d_ns import rasterization
from fit3d_ns.rasterization import rasterization as function


def test_the_package_is_called_as_its_function() -> None:
    assert rasterization is fit3d_ns.rasterization is sys.modules["fit3d_ns.rasterization"]
    assert inspect.signature(rasterization) == inspect.signature(function)
    with pytest.raises(TypeError, match="means"):
        rasterization()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "code",
    [
        "from fit3d_ns import rasterization; import fit3d_ns.rasterization.backend as other",
        "import fit3d_ns.rasterization.backend as other; from fit3d_ns import rasterization",
        "from fit3d_ns.scene import render as other; import fit3d_ns; rasterization = fit3d_ns.rasterization",
        "import fit3d_ns; rasterization = fit3d_ns.rasterization; from fit3d_ns.rasterization import cpu as other",
    ],
)
def test_in_whatever_order_things_are_imported(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(callable(rasterization), rasterization.TILE_SIZE, other.__name__)"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("True 16 fit3d_ns."), done.stderr
