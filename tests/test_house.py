"""The house: imports point down, only the method knows nerfstudio, modules are short, and importing does no work."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

FOLDERS = (
    ("fit3d_ns.common",),
    ("fit3d_ns.capture", "fit3d_ns.remote"),
    ("fit3d_ns.rasterization", "fit3d_ns.reconstruction"),
    ("fit3d_ns.features", "fit3d_ns.photometric"),
    ("fit3d_ns.scene",),
    ("fit3d_ns.lifting", "fit3d_ns.machine"),
    ("fit3d_ns.judgement",),
    ("fit3d_ns.method", "fit3d_ns.scheduling", "fit3d_finetune.backbone"),
    ("fit3d_ns.commands", "fit3d_finetune.targets", "fit3d_finetune.sharing"),
    ("fit3d_finetune.training", "fit3d_finetune.probing.data"),
    ("fit3d_finetune.probing",),
    ("fit3d_finetune.report",),
    ("fit3d_finetune.page",),
    ("fit3d_finetune.commands",),
)
"""From the bottom up: a module imports from its own folder and from those further down, never from one beside it."""

KNOW_NERFSTUDIO = ("fit3d_ns.method", "fit3d_ns.commands")
"""Only these import nerfstudio, and nobody but they import each other: `fit3d_finetune` runs without them."""

ROOTS = ("fit3d_ns", "fit3d_finetune")
"""The packages themselves: they hand out names of their modules, which therefore never import them."""

LONGEST = 299
"""Lines of a module: one that is longer has more than one job."""


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

    for package in ROOTS:
        visit(package)
    return found


MODULES = find_modules()
SOURCES = {name: path.read_text() for name, path in MODULES.items()}
NERFSTUDIO_HALF = sorted(name for name in MODULES if name.startswith(KNOW_NERFSTUDIO))
SHARED = sorted(MODULES.keys() - set(NERFSTUDIO_HALF))

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
    arguments = json.dumps([SHARED, NERFSTUDIO_HALF])
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


# ---- the graph of imports


def imports(sources: Mapping[str, str], packages: Container[str]) -> dict[str, set[str]]:
    """Which of these modules each of them imports, anywhere in its text.

    Args:
        sources: text by name of module.
        packages: those of them that are a folder's __init__.
    """

    def innermost(name: str) -> str | None:
        """The module that a dotted name lies in: that of `package.module.Class` is `package.module`."""
        parts = name.split(".")
        return next((n for k in range(len(parts), 0, -1) if (n := ".".join(parts[:k])) in sources), None)

    found: dict[str, set[str]] = {}
    for module, text in sources.items():
        targets = set()
        for node in ast.walk(ast.parse(text)):
            names = named_by(node, module, module in packages)
            # `from package import module` names the package, too, which is not what it is after.
            inner = {innermost(name) for name in names[1:]} or {innermost(name) for name in names[:1]}
            targets |= inner - {None, module}
        found[module] = {target for target in targets if target is not None}
    return found


def named_by(node: ast.AST, module: str, is_package: bool) -> list[str]:
    """What one statement or call of `module` imports: the module, then the names in it."""
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = module.split(".")[: None if is_package else -1]
            parents = parents[: len(parents) - (node.level - 1)]
            base = ".".join([*parents, *([node.module] if node.module else [])])
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Import):
        return ["", *(alias.name for alias in node.names)]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = ast.unparse(node.func).rpartition(".")[2]
        if function in ("import_module", "__import__", "find_spec", "load_kernels"):
            return ["", str(node.args[0].value)]
    return []


def folder_of(module: str) -> str:
    """The innermost folder of `FOLDERS` that it lies in; a root package is its own."""
    inside = [name for level in FOLDERS for name in level if f"{module}.".startswith(f"{name}.")]
    return max(inside, key=len, default=module)


def level_of(folder: str) -> int:
    """0 at the bottom; the roots are above everything."""
    return next((i for i, level in enumerate(FOLDERS) if folder in level), len(FOLDERS))


def upward(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The imports that do not point down."""
    found = []
    for module, targets in graph.items():
        for target in targets:
            mine, theirs = folder_of(module), folder_of(target)
            if mine != theirs and level_of(mine) <= level_of(theirs):
                found.append(f"{module} -> {target}")
    return sorted(found)


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The modules of one circle of imports, in order; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def know_nerfstudio(sources: Mapping[str, str], packages: Container[str]) -> set[str]:
    """The modules that import nerfstudio or the half that may."""
    found = set()
    for module, text in sources.items():
        names = [name for node in ast.walk(ast.parse(text)) for name in named_by(node, module, module in packages)]
        if any(f"{name}.".startswith(tuple(f"{k}." for k in ("nerfstudio", *KNOW_NERFSTUDIO))) for name in names):
            found.add(module)
    return found


PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}
GRAPH = imports(SOURCES, PACKAGES)


def test_every_folder_has_its_place() -> None:
    for module in MODULES:
        assert module in ROOTS or folder_of(module) != module or any(module in level for level in FOLDERS), module
    assert {folder for level in FOLDERS for folder in level} <= MODULES.keys()


def test_imports_point_down_only() -> None:
    assert upward(GRAPH) == []


def test_imports_have_no_circle() -> None:
    assert circle(GRAPH) == []


def test_only_the_method_and_its_commands_know_nerfstudio() -> None:
    outside = {module for module in know_nerfstudio(SOURCES, PACKAGES) if not module.startswith(KNOW_NERFSTUDIO)}
    assert outside == set()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_has_one_job_and_few_lines(module: str) -> None:
    assert len(SOURCES[module].splitlines()) <= LONGEST


# ---- the checks notice what they are for


def with_line(module: str, line: str) -> dict[str, set[str]]:
    """The graph of imports if `module` had one line more."""
    return imports({**SOURCES, module: f"{SOURCES[module]}\n{line}\n"}, PACKAGES)


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("fit3d_ns.scene.views", "import fit3d_ns.lifting.maps", "fit3d_ns.lifting.maps"),
        ("fit3d_ns.scene.views", "from fit3d_ns.lifting import maps", "fit3d_ns.lifting.maps"),
        ("fit3d_ns.scene.views", "from fit3d_ns.lifting.maps import lift_feature_maps", "fit3d_ns.lifting.maps"),
        ("fit3d_ns.scene.views", "def f():\n    from ..lifting import maps", "fit3d_ns.lifting.maps"),
        ("fit3d_ns.scene.views", "if TYPE_CHECKING:\n    from fit3d_ns.lifting import maps", "fit3d_ns.lifting.maps"),
        ("fit3d_ns.scene.views", "importlib.import_module('fit3d_ns.lifting.maps')", "fit3d_ns.lifting.maps"),
        ("fit3d_ns.capture.lens", "load_kernels('fit3d_ns.lifting._kernels')", "fit3d_ns.lifting._kernels"),
        ("fit3d_ns.features.loss", "import fit3d_ns.photometric", "fit3d_ns.photometric"),
        ("fit3d_ns.photometric", "from ..features import loss", "fit3d_ns.features.loss"),
        ("fit3d_ns.common.errors", "import fit3d_ns", "fit3d_ns"),
        ("fit3d_ns.common.errors", "from fit3d_ns import FeatureGaussians", "fit3d_ns"),
        ("fit3d_finetune.backbone.hub", "from fit3d_ns.method import model", "fit3d_ns.method.model"),
        (
            "fit3d_finetune.training.loss",
            "import fit3d_finetune.probing.data.checks",
            "fit3d_finetune.probing.data.checks",
        ),
        ("fit3d_finetune.probing.data.views", "from .. import metrics", "fit3d_finetune.probing.metrics"),
        ("fit3d_finetune.probing.metrics", "from fit3d_finetune.report import page", "fit3d_finetune.report.page"),
    ],
)
def test_an_import_that_points_up_is_found_however_it_is_written(module: str, line: str, found: str) -> None:
    assert upward(with_line(module, line)) == [f"{module} -> {found}"]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("fit3d_ns.scene.splats", "from fit3d_ns.scene import ply"),
        ("fit3d_ns.scene.splats", "def f():\n    import fit3d_ns.scene.gaussians"),
        ("fit3d_ns.lifting.blending_weights", "if TYPE_CHECKING:\n    from .operator import PatchOperator"),
    ],
)
def test_a_circle_inside_a_folder_is_found(module: str, line: str) -> None:
    graph = with_line(module, line)
    assert upward(graph) == []
    assert module in circle(graph)


@pytest.mark.parametrize(
    "line",
    [
        "import nerfstudio",
        "import numpy, nerfstudio.cameras as c",
        "def f():\n    from nerfstudio.cameras import cameras",
        "if TYPE_CHECKING:\n    from nerfstudio import cameras",
        "importlib.import_module('nerfstudio.cameras')",
        "from fit3d_ns import method",
        "from fit3d_ns.method import model",
        "from fit3d_ns.commands.lift import run",
        "from ..method.model import Fit3DModel",
    ],
)
@pytest.mark.parametrize("module", ["fit3d_ns.features.pca", "fit3d_ns.features"])
def test_knowing_nerfstudio_is_found_however_it_is_written(module: str, line: str) -> None:
    assert module in know_nerfstudio({module: line}, PACKAGES)


def test_the_check_of_lines_tells_real_names_from_similar_ones() -> None:
    assert know_nerfstudio({"fit3d_ns.features.pca": "import nerfstudio_tools\nx = 'nerfstudio'"}, PACKAGES) == set()
