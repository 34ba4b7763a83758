"""The documentation as a site: it builds, its pages are whole, and what they quote stands in the code."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fit3d_ns.scheduling.plan import Status
from tests.fit3d_ns.scheduling.conftest import plan_of, stand_in, starts_of
from tests.test_docs import PARSERS, blocks, read

pytest.importorskip("sphinx", reason="needs Sphinx")
pytest.importorskip("myst_nb", reason="needs myst-nb")
pytest.importorskip("furo", reason="needs furo")

__all__ = ["stand_in"]

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.md"))
OUTSIDE = ("benchmarks/results/*.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Pages that are not in docs/."""
LARGEST = 400_000
"""Bytes of a screenshot."""


# ---- the pages


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages, of notebooks that were not run."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-c", "docs", "-b", "html"]
    command += ["-D", "nb_execution_mode=off", "-d", str(folder / "doctrees"), ".", str(folder / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    return folder / "html"


def pages(site: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(site.rglob("*.html")):
        yield str(path.relative_to(site)), path.read_text(encoding="utf-8")


def test_every_page_is_there(site: Path) -> None:
    """And reached from the index: Sphinx warns of one that is not, and warnings are errors."""
    sources = [path for pattern in ("docs/**/*.md", *OUTSIDE) for path in ROOT.glob(pattern)]
    assert len(sources) > 40
    missing = [path for path in sources if not (site / path.relative_to(ROOT)).with_suffix(".html").is_file()]
    assert [path for path in missing if "_build" not in path.parts] == []
    assert (site / "index.html").is_file()


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loading = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)\"")
    assert loading.findall('<script async src="https://example.org/a.js">') == ["https://example.org/a.js"]
    assert {name: found for name, text in pages(site) if (found := loading.findall(text))} == {}


def test_links_between_pages_lead_to_pages_and_to_places_in_them(site: Path) -> None:
    texts = dict(pages(site))
    places = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in texts.items()}
    wrong = []
    for name, text in texts.items():
        for link in re.findall(r'<a\b[^>]*\bhref="([^":]+)"', text):
            target, _, place = link.partition("#")
            path = os.path.normpath(os.path.join(os.path.dirname(name), target)) if target else name
            if path not in texts:
                if not (site / path).is_file():
                    wrong.append((name, link))
            elif place and place not in places[path]:
                wrong.append((name, link))
    assert wrong == []


def test_the_flow_is_a_picture(site: Path) -> None:
    text = (site / "docs" / "architecture.html").read_text()
    assert "flow.svg" in text
    assert "flowchart" not in text


def test_the_picture_of_the_flow_says_what_the_diagram_says() -> None:
    [diagram] = blocks(read("docs/architecture.md"), "mermaid")
    labels = re.findall(r'\["(.+?)"\]', diagram)
    assert len(labels) > 10
    words = " ".join(re.findall(r">([^<]+)</text>", read("docs/flow.svg"))).split()
    wanted = " ".join(labels).replace("<br/>", " ").split()
    assert sorted({*wanted} - {*words}) == []


@pytest.mark.parametrize("name", ["viewer.png", "demo_page.png"])
def test_screenshots_are_small(name: str) -> None:
    assert (DOCS / name).stat().st_size < LARGEST


# ---- options


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_the_page_of_a_command_has_every_option(name: str, site: Path) -> None:
    """By its completion in the shell, which is another reader of the same parser."""
    said = io.StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit):
        PARSERS[name](["--tyro-print-completion", "bash"])
    flags = "".join(re.findall(r"'flags': \[([^]]*)\]", said.getvalue()))
    options = set(re.findall(r"'(--[^']+)'", flags))
    text = (site / "docs" / "commands" / f"{name}.html").read_text()
    assert {"--help"} < options or name == "fit3d-data"
    assert sorted(option for option in options if option not in text) == []
    assert "\x1b" not in text


def test_every_console_script_has_a_page(site: Path) -> None:
    scripts = tomllib.loads(read("pyproject.toml"))["project"]["scripts"]
    assert set(scripts) == {path.stem for path in (site / "docs" / "commands").glob("fit3d-*.html")}


def test_the_page_of_the_method_has_every_option_of_ours(site: Path) -> None:
    from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
    from nerfstudio.models.splatfacto import SplatfactoModelConfig

    from fit3d_ns.method.datamanager import Fit3DDatamanagerConfig
    from fit3d_ns.method.model_config import Fit3DModelOptions

    def own(kind: Any, base: Any) -> set[str]:
        names = {field.name for field in dataclasses.fields(kind)} - {field.name for field in dataclasses.fields(base)}
        return {name.replace("_", "-") for name in names - {"backbone"}}

    text = (site / "docs" / "commands" / "ns-train.html").read_text()
    ours = {f"--pipeline.model.{name}" for name in own(Fit3DModelOptions, SplatfactoModelConfig)}
    ours |= {f"--pipeline.datamanager.{name}" for name in own(Fit3DDatamanagerConfig, FullImageDatamanagerConfig)}
    assert len(ours) > 20
    assert sorted(option for option in ours if option not in text) == []


@pytest.fixture
def command_pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("command_pages")


def test_pages_of_commands_that_are_gone_are_deleted(command_pages: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "fit3d-gone.md").write_text("# fit3d-gone\n")
    command_pages.write_command_pages(tmp_path)
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert "fit3d-gone.md" not in written
    command_pages.write_command_pages(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written


# ---- what is quoted


LEAST = 20
"""Letters of a text that are its own, not filled in: shorter ones are no messages, and fit too much."""
Template = list[str]
"""The parts of a text between the values that are filled in."""


def templates() -> list[Template]:
    """All texts of both packages that may be messages."""
    found = []
    for package in ("fit3d_ns", "fit3d_finetune"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append("\0".join(_constant(part) for part in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%[-+.\d]*[sdrf]", "\0", node.value))
    return [text.split("\0") for text in found if len(text) - text.count("\0") >= LEAST]


def _constant(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "\0"


def quotes() -> list[str]:
    return [" ".join(block.split()) for block in blocks(read("docs/troubleshooting.md"), "text")]


def is_said(quote: str, templates: list[Template]) -> bool:
    """Whether a text of the code becomes the quote; one that ends in … is its beginning, up to a value or with it."""
    if not quote.endswith("…"):
        return any(becomes(quote, parts) for parts in templates)
    begun = quote.removesuffix("…").rstrip()
    beginnings = [parts[:count] for parts in templates for count in range(1, len(parts))]
    beginnings = [parts for parts in beginnings if sum(map(len, parts)) >= LEAST]
    return any(becomes(begun, parts) or becomes(begun, [*parts, ""]) for parts in beginnings)


def becomes(text: str, parts: Template) -> bool:
    """Whether a text is these parts in their order with anything in between."""
    if len(parts) == 1:
        return text == parts[0]
    first, *middle, last = parts
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
        return False
    rest = text[len(first) : len(text) - len(last)]
    for part in middle:
        _, found, rest = rest.partition(part) if part else ("", "-", rest)
        if not found:
            return False
    return True


@pytest.fixture(scope="module")
def said() -> list[Template]:
    return templates()


@pytest.mark.parametrize("quote", quotes(), ids=lambda quote: quote[:40])
def test_every_error_that_is_quoted_stands_in_the_code(quote: str, said: list[Template]) -> None:
    assert is_said(quote, said)


@pytest.mark.parametrize(
    "quote",
    [
        "data/lego is in Blender's format; add `blender` behind the other options of ns-train.",
        "--exports runs holds no exports: make them with fit3d-export --output-dir runs",
        "camera_model 'X' in transforms.json is not known; undistort the images to one of OPENCV, …",
        "nothing of the kind is said anywhere …",
    ],
)
def test_a_quote_that_is_a_little_wrong_is_found_out(quote: str, said: list[Template]) -> None:
    assert not is_said(quote, said)


# ---- examples that need more than a folder


def test_the_engine_of_the_page_does_scenes(tmp_path: Path, stand_in: None) -> None:
    [example] = [block for block in blocks(read("docs/extending.md"), "python") if "class OneByOne" in block]
    names: dict[str, Any] = {}
    exec(compile(example, "docs/extending.md", "exec"), names)
    plan = plan_of(tmp_path, "small", "large", "killed", retry=("--fewer",))
    names["OneByOne"]().run(plan, ["small", "large", "killed"])
    assert [Status.load(plan, scene).state for scene in plan.captures] == ["done", "done", "failed"]
    assert [len(starts_of(plan, scene)) for scene in plan.captures] == [1, 2, 2]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_commands_of_a_notebook_take_their_options(notebook: Path) -> None:
    """Without running them, which `make docs` does."""
    cells = "\n".join(re.findall(r"```\{code-cell\}[^\n]*\n(.*?)```", notebook.read_text(), re.DOTALL))
    calls = [node for node in ast.walk(ast.parse(cells)) if isinstance(node, ast.Call)]
    lines = [ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "run" and call.args]
    assert len(lines) >= 5
    for line in lines:
        name, *words = line.split()
        if name in PARSERS:
            PARSERS[name](words)
