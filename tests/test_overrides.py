"""docs/overrides.md against the code: what it names exists, and what overrides others is named in it."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import fit3d_finetune
import fit3d_ns

PAGE = Path(__file__).parent.parent / "docs" / "overrides.md"
TEXT = PAGE.read_text()
FOREIGN = ("nerfstudio", "gsplat", "torchmetrics", "torch", "numba", "timm", "llvmlite")
NAMES = sorted(set(re.findall(rf"`((?:{'|'.join((*FOREIGN, 'fit3d_ns', 'fit3d_finetune'))})(?:\.\w+)+)`", TEXT)))
# Every class has these; none of them is behaviour of the parent.
NOT_BEHAVIOUR = {
    *("__module__", "__doc__", "__annotations__", "__parameters__", "__orig_bases__"),
    *("__firstlineno__", "__static_attributes__"),  # since Python 3.13
}


def resolve(name: str) -> Any:
    """The object of a dotted name: the longest part that is a module, then attributes."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_the_page_names_exists(name: str) -> None:
    resolve(name)


def test_the_check_of_names_would_notice_one_that_is_gone() -> None:
    with pytest.raises(AttributeError):
        resolve("nerfstudio.models.splatfacto.SplatfactoModel.no_such_method")
    with pytest.raises(ModuleNotFoundError):
        resolve("no_such_package.module")
    assert {"gsplat.strategy.ops.compute_relocation", "fit3d_ns.method.config"} <= set(NAMES)


def our_modules() -> list[str]:
    packages = (fit3d_ns, fit3d_finetune)
    return [m.name for package in packages for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


def overrides() -> set[str]:
    """module.Class.member of every member that a class of ours takes from a parent in nerfstudio or gsplat."""
    found = set()
    for name in our_modules():
        for kind in vars(importlib.import_module(name)).values():
            if not inspect.isclass(kind) or kind.__module__ != name:
                continue
            parents = [base for base in kind.__mro__ if base.__module__.partition(".")[0] in ("nerfstudio", "gsplat")]
            ignored = set(NOT_BEHAVIOUR)
            if dataclasses.is_dataclass(kind):  # generated methods; fields are options with values of ours
                ignored |= {name for name in vars(kind) if name.startswith("__")}
                ignored |= {field.name for field in dataclasses.fields(kind)}
            members = [m for m in vars(kind) if m not in ignored and any(m in vars(base) for base in parents)]
            found |= {f"{name}.{kind.__name__}.{member}" for member in members}
    return found


def test_every_method_that_overrides_nerfstudio_or_gsplat_is_on_the_page() -> None:
    found = overrides()
    assert "fit3d_ns.method.trainer.Fit3DTrainer.save_checkpoint" in found
    assert sorted(found - set(NAMES)) == [], f"add a row to {PAGE.name} for each"


def assigned_attributes(source: str) -> set[str]:
    """What of imported modules, other than ours, `source` assigns to: "module.attribute"."""
    tree = ast.parse(source)
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            root, path = node.value, [node.attr]
            while isinstance(root, ast.Attribute):
                path.append(root.attr)
                root = root.value
            # Numba is imported in a function and, in one place, handed to another under its own name.
            name = root.id if isinstance(root, ast.Name) else ""
            home = modules.get(name, "")
            if home.partition(".")[0] in FOREIGN:
                found.add(".".join([home, *reversed(path)]))
    return found


def test_every_attribute_of_a_foreign_module_that_we_set_is_on_the_page() -> None:
    found = set()
    for package in (fit3d_ns, fit3d_finetune):
        for path in Path(package.__path__[0]).rglob("*.py"):
            found |= assigned_attributes(path.read_text())
    assert {"numba.config.THREADING_LAYER", "gsplat.strategy.ops.compute_relocation"} <= found
    assert sorted(found - set(NAMES)) == [], f"add a row to {PAGE.name} for each"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import torch\ntorch.load = f", "torch.load"),
        ("import torch.nn as nn\nnn.Linear.forward = f", "torch.nn.Linear.forward"),
        (
            "def f():\n  from gsplat import rendering\n  del rendering.rasterization",
            "gsplat.rendering.rasterization",
        ),
        ("from gsplat.strategy import ops\na, ops.split = 1, 2", "gsplat.strategy.ops.split"),
    ],
)
def test_the_check_of_assignments_knows_every_way_to_set_one(line: str, name: str) -> None:
    assert assigned_attributes(line) == {name}
