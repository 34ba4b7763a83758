"""Pages of the documentation that the code itself writes: the options of every command and of the method."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import os
import re
import tomllib
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parent.parent
COLUMNS = 88
"""Of a help text: what a page has room for."""
METHOD = {
    "--pipeline.model": ("fit3d_ns/method/model_config.py", "Fit3DModelOptions"),
    "--pipeline.datamanager": ("fit3d_ns/method/datamanager.py", "Fit3DDatamanagerConfig"),
}
"""Where the method's own options are: of ns-train, what they begin with; the file; the class."""
NO_OPTION = ("_target", "backbone")
"""Fields that are no options themselves."""


def write_command_pages(folder: Path) -> None:
    """One page for each console script of pyproject.toml, and one for the method. Pages that are right are not touched.

    Args:
        folder: which holds nothing else; pages of commands that are gone are deleted.
    """
    pages = {f"{name}.md": command_page(name, target) for name, target in console_scripts().items()}
    pages["ns-train.md"] = method_page()
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def console_scripts() -> dict[str, str]:
    """Module and function of each, by name."""
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, str] = described["project"]["scripts"]
    return dict(sorted(found.items()))


def command_page(name: str, target: str) -> str:
    """A command's help, and that of its sub-commands."""
    module = target.partition(":")[0]
    whole = help_of(module)
    parts = [f"# {name}\n", block(whole)]
    for command in subcommands(whole):
        parts += [f"## {name} {command}\n", block(help_of(module, command))]
    return "\n".join(parts)


def help_of(module: str, *words: str) -> str:
    """What a command prints on `--help`, without colour, `COLUMNS` wide.

    Args:
        module: of the command, with a `parse` of its words.
        words: before `--help`.
    """
    plain = {"COLUMNS": str(COLUMNS), "NO_COLOR": "1", "TERM": "dumb", "FIT3D_BACKBONE_WEIGHTS": "hub"}
    written = io.StringIO()
    with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
        importlib.import_module(module).parse([*words, "--help"])
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()).strip()


def subcommands(text: str) -> list[str]:
    """The names of sub-commands in a help text, in its order."""
    return re.findall(r"^\W*• (\S+)", text.partition(" subcommands")[2], re.MULTILINE)


def block(text: str) -> str:
    """A text as it is."""
    return f"```text\n{text}\n```\n"


# ---- the method


def method_page() -> str:
    """The options that the methods have beside splatfacto's."""
    parts = [
        "# ns-train fit3d-features\n",
        "The options that `fit3d-features`, `fit3d-features-fast` and `fit3d-features-paper` have beside splatfacto's, "
        "with the defaults of the class; the presets set some of them otherwise ([options.md](../options.md)). "
        "`ns-train fit3d-features --help` shows all, with the preset's own defaults. The backbone's are those under "
        "“backbone options” of [fit3d-probe](fit3d-probe.md), as `--pipeline.datamanager.backbone.name` and so on.\n",
    ]
    for prefix, (file, kind) in METHOD.items():
        parts.append(f"## {prefix}\n")
        parts += ["| option | default | what it does |", "|---|---|---|"]
        for field, kinds, default, said in fields(ROOT / file, kind):
            name = field.replace("_", "-")
            parts.append(f"| `{prefix}.{name}` | `{default}` | {cell(said)} ({cell(f'`{kinds}`')}) |")
        parts.append("")
    return "\n".join(parts)


def fields(file: Path, kind: str) -> list[tuple[str, str, str, str]]:
    """Name, type, default and docstring of each field of a dataclass, read from its source: importing takes long."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind]
    found = []
    for field, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or ast.unparse(field.target) in NO_OPTION:
            continue
        doc = following.value if isinstance(following, ast.Expr) else None
        said = str(doc.value) if isinstance(doc, ast.Constant) else ""
        default = "required" if field.value is None else ast.unparse(field.value)
        found.append((ast.unparse(field.target), ast.unparse(field.annotation), default, said))
    return found


def cell(text: str) -> str:
    """A text as it may stand in a table."""
    return " ".join(text.split()).replace("|", "\\|")
