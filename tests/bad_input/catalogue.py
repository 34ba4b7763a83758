"""What a case is, and what every refusal owes its user."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MODULES = {
    **{f"fit3d-{name}": f"fit3d_ns.commands.{name}" for name in ("capture", "export", "lift", "scenes", "doctor")},
    **{f"fit3d-{name}": f"fit3d_finetune.commands.{name}" for name in ("finetune", "probe", "data", "demo", "share")},
}
LONGEST_SENTENCE = 900
"""Of characters: a path of the tests alone takes 150."""
RUN = "outputs/tiny/fit3d-features-fast/run"
"""The run of the world."""
DEEP = "[" * 3000 + "]" * 3000
NO_JSON: dict[str, str | bytes] = {"empty": "", "cut": "{", "list": "[]", "deep": DEEP, "binary": bytes(range(256))}
"""What may stand in a file where a JSON object should."""
MISSING = object()
"""In place of a value: the key is left out."""


@dataclass(frozen=True)
class Raw:
    """JSON text that `json.dumps` would not write."""

    text: str


Spoil = Callable[[Path], None]
Refused = Callable[["Case"], None]
"""The fixture that runs a case and checks its refusal."""


@dataclass(frozen=True)
class Case:
    """A command on spoiled input. Words of the command line may have `{here}`, the folder with the input."""

    name: str
    words: tuple[str, ...]
    says: tuple[str, ...]
    """Regular expressions that all stand in the sentence: what, where, remedy."""
    needs: tuple[str, ...] = ()
    """Parts of the world that are copied for it."""
    spoil: Spoil = lambda here: None

    def __str__(self) -> str:
        return self.name


# ---- spoiling


def edited(path: str, place: str, value: Any) -> Spoil:
    """Change one value of a JSON file; `place` is dotted: "frames.0.file_path"."""

    def spoil(here: Path) -> None:
        data = json.loads((here / path).read_text())
        holder = data
        *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
        for key in way:
            holder = holder[key]
        if value is MISSING:
            del holder[last]
        else:
            holder[last] = "@raw@" if isinstance(value, Raw) else value
        text = json.dumps(data)
        _replace(here / path, text.replace('"@raw@"', value.text) if isinstance(value, Raw) else text)

    return spoil


def written(path: str, content: str | bytes) -> Spoil:
    """Put these bytes in place of a file."""
    return lambda here: _replace(here / path, content)


def cut(path: str, share: float = 0.5) -> Spoil:
    """Leave only the first part of a file."""

    def spoil(here: Path) -> None:
        content = (here / path).read_bytes()
        _replace(here / path, content[: int(share * len(content))])

    return spoil


def removed(path: str) -> Spoil:
    def spoil(here: Path) -> None:
        (shutil.rmtree if (here / path).is_dir() else os.unlink)(here / path)

    return spoil


def folder_instead(path: str) -> Spoil:
    def spoil(here: Path) -> None:
        os.unlink(here / path)
        (here / path).mkdir()

    return spoil


def together(*spoils: Spoil) -> Spoil:
    def spoil(here: Path) -> None:
        for one in spoils:
            one(here)

    return spoil


def _replace(path: Path, content: str | bytes) -> None:
    path.unlink(missing_ok=True)  # it may be linked to the world's own
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# ---- checking


def check(case: Case, world: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Exit code 2 and one sentence that says what the case says, no traceback, and nothing written or changed."""
    for part in case.needs:
        copy = shutil.copytree if (world / part).is_dir() else shutil.copy2
        copy(world / part, here / part)
    case.spoil(here)
    before = snapshot(here)
    code = run(case.words, here, monkeypatch)
    output, said = capfd.readouterr()
    sentences = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2, f"exit code {code}:\n{output[-2000:]}\n{said[-4000:]}"
    assert len(sentences) == 1, said[-4000:]
    [sentence] = sentences
    assert said.rstrip().endswith(sentence), f"it says more behind its sentence:\n{said[-2000:]}"
    assert "Traceback" not in output + said
    assert len(sentence) < LONGEST_SENTENCE, sentence
    assert sentence.endswith("."), sentence
    for pattern in case.says:
        assert re.search(pattern, sentence), f"{pattern!r} is not in: {sentence}"
    assert snapshot(here) == before


def run(words: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command in this process, in the folder `here`; returns its exit code."""
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", [word.replace("{here}", str(here)) for word in words])
    try:
        importlib.import_module(MODULES[words[0]]).main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


def snapshot(folder: Path) -> Mapping[str, str]:
    """All that is below a folder, with what it holds."""
    return dict(_entries(folder))


def _entries(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        content = hashlib.sha256(path.read_bytes()).hexdigest() if kind == "file" and path.stat().st_size < 1e8 else ""
        yield str(path.relative_to(folder)), f"{kind} {content}"
