"""The dependency rule: only nerfstudio's side of the method knows nerfstudio, and importing anything does no work."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

NERFSTUDIO_HALF = {
    f"fit3d_ns.{name}"
    for name in (
        *("cameras", "config", "datamanager", "export", "feature_start", "lift", "lift_sources", "model"),
        *("model_config", "optimizers", "pipeline", "trainer", "viewer"),
    )
}
"""The modules that may know nerfstudio. Everything else, `fit3d_finetune` as a whole included, must not."""


def find_modules() -> dict[str, Path]:
    """Every module of both packages, by name, without importing any."""
    found: dict[str, Path] = {}

    def visit(name: str) -> None:
        spec = importlib.util.find_spec(name) if "." not in name else None
        folder = Path(spec.origin).parent if spec and spec.origin else found[name].parent
        found[name] = folder / "__init__.py"
        for module in pkgutil.iter_modules([str(folder)]):
            below = f"{name}.{module.name}"
            found[below] = folder / module.name / "__init__.py" if module.ispkg else folder / f"{module.name}.py"
            if module.ispkg:
                visit(below)

    for package in ("fit3d_ns", "fit3d_finetune"):
        visit(package)
    return found


MODULES = find_modules()
SHARED = sorted(MODULES.keys() - NERFSTUDIO_HALF)

PROBE = """
import contextlib, importlib, json, os, sys, traceback

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "nerfstudio":
            raise ImportError("nerfstudio must not be imported here")

def in_a_fork(task):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            result = task()
        except BaseException:
            result = {"error": traceback.format_exc()}
        with open(writer, "w") as pipe:
            json.dump(result, pipe)
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        result = json.load(pipe)
    os.waitpid(pid, 0)
    return result

def importing(names, *actions):
    with numba.core.event.install_recorder("numba:compile") as compilations:
        for name in names:
            importlib.import_module(name)
        for action in actions:
            action()
    return {"compilations": len(compilations.buffer), "cuda": started, "nerfstudio": "nerfstudio" in sys.modules}

def start_cuda(*_, **__):
    started.append("".join(traceback.format_stack(limit=6)))

blocker = Blocker()
sys.meta_path.insert(0, blocker)
# What the modules share, so that each fork has less to import. None of it may bring nerfstudio in.
for name in ("torch", "numba", "numba.core.event", "timm", "cv2", "gsplat.strategy"):
    with contextlib.suppress(ImportError), contextlib.redirect_stdout(sys.stderr):
        importlib.import_module(name)
import numba, torch
started = []
torch.cuda._lazy_init = start_cuda

shared, others = json.loads(sys.argv[1])
results = {name: in_a_fork(lambda: importing([name])) for name in shared}
results["blocked"] = in_a_fork(lambda: importing(["nerfstudio"]))
compile_something = lambda: numba.njit(lambda x: x + 1)(1)
results["control"] = in_a_fork(lambda: importing([], compile_something, torch.cuda.init))
sys.meta_path.remove(blocker)
results["all"] = in_a_fork(lambda: importing([*shared, *others]))
print("RESULTS", json.dumps(results), flush=True)
"""


@cache
def probe() -> dict[str, dict[str, Any]]:
    """Each shared module imported in a fresh process where nerfstudio cannot be, and what that set off."""
    arguments = json.dumps([SHARED, sorted(NERFSTUDIO_HALF)])
    with tempfile.TemporaryDirectory() as empty:  # a kernel in Numba's cache would not be compiled again
        environment = {**os.environ, "NUMBA_CACHE_DIR": empty}
        command = [sys.executable, "-c", PROBE, arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    assert lines, done.stderr
    return json.loads(lines[-1].removeprefix("RESULTS "))


def test_the_probe_would_notice_an_import_a_compilation_and_cuda() -> None:
    assert "nerfstudio must not be imported" in probe()["blocked"]["error"]
    assert probe()["control"]["compilations"] > 0
    assert len(probe()["control"]["cuda"]) > 0


@pytest.mark.parametrize("module", SHARED)
def test_a_shared_module_imports_where_nerfstudio_does_not(module: str) -> None:
    result = probe()[module]
    assert "error" not in result, result["error"]
    assert not result["nerfstudio"]


@pytest.mark.parametrize("module", [*SHARED, "all"])
def test_importing_compiles_no_kernel_and_leaves_the_gpu_alone(module: str) -> None:
    result = probe()[module]
    assert "error" not in result, result["error"]
    assert result["compilations"] == 0
    assert result["cuda"] == []


def imported_names(module: str, source: str, is_package: bool) -> set[str]:
    """Every module that `source` imports at any level, also inside functions and under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package else -1]
                parents = parents[: len(parents) - (node.level - 1)]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = ast.unparse(node.func).rpartition(".")[2]
            if function in ("import_module", "__import__", "find_spec") and isinstance(node.args[0].value, str):
                names.add(node.args[0].value)
    return names


def forbidden(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] == "nerfstudio" or name in NERFSTUDIO_HALF}


@pytest.mark.parametrize("module", SHARED)
def test_no_line_of_a_shared_module_imports_nerfstudio_or_its_half(module: str) -> None:
    path = MODULES[module]
    assert forbidden(imported_names(module, path.read_text(), path.name == "__init__.py")) == set()


@pytest.mark.parametrize(
    "line",
    [
        "import nerfstudio",
        "import numpy, nerfstudio.cameras as c",
        "def f():\n    from nerfstudio.cameras import cameras",
        "if TYPE_CHECKING:\n    from nerfstudio import cameras",
        "importlib.import_module('nerfstudio.cameras')",
        "from fit3d_ns.method import model",
        "from fit3d_ns.method.model import Fit3DModel",
        "from . import model",
        "from .model import Fit3DModel",
    ],
)
def test_the_check_of_lines_knows_every_way_to_import(line: str) -> None:
    assert forbidden(imported_names("fit3d_ns.features.pca", line, is_package=False))
    assert forbidden(imported_names("fit3d_ns", line, is_package=True))


def test_the_list_of_modules_that_may_know_nerfstudio_is_no_longer_than_needed() -> None:
    assert MODULES.keys() >= NERFSTUDIO_HALF
    for module in NERFSTUDIO_HALF:
        assert forbidden(imported_names(module, MODULES[module].read_text(), is_package=False)), module
