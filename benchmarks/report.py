"""The results of a run: a table on the screen, the same as Markdown, and JSON."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.rows import Aim, Outcome, Row
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.rasterization.threads import thread_count

_PACKAGES = ("torch", "numpy", "numba", "scipy", "gsplat", "nerfstudio", "timm")


@dataclass(frozen=True)
class Machine:
    """Where and with what a run was made."""

    date: str
    processor: str
    gpu: str | None
    threads: int
    torch_threads: int
    python: str
    versions: dict[str, str]
    commit: str


def processor() -> str:
    """The name that the processor gives itself."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> Machine:
    return Machine(
        date=date.today().isoformat(),
        processor=processor(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        threads=thread_count(),
        torch_threads=torch.get_num_threads(),
        python=platform.python_version(),
        versions={name: _version(name) for name in _PACKAGES},
        commit=commit(),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "not installed"


def commit() -> str:
    """Of this checkout, with a mark if tracked files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


# ---- cells


def number(value: float) -> str:
    """Three figures or so."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 4
        return f"{value:,.{digits}f}"
    return f"{value:.1e}"


def quotient(value: float) -> str:
    """A ratio, as 1/n where it is small: "1/40" reads as forty times less."""
    return f"1/{number(1 / value)}" if 0 < value < 0.4 else number(value)


def aim_text(aim: Aim | None, unit: str) -> str:
    if aim is None:
        return ""
    sign = "≤" if aim.sense == "at most" else "≥"
    if aim.of == "ours":
        return f"{sign} {aim.bound:g} {unit}".strip()
    return f"{sign} 1/{1 / aim.bound:g}" if aim.bound < 0.4 else f"{sign} {aim.bound:g}"


def cells(row: Row) -> list[str]:
    """name, ours, reference, ratio, aim, met."""

    def timed(value: float | None, least: float | None) -> str:
        if value is None:
            return ""
        return f"{number(value)} {row.unit}".strip() + ("" if least is None else f" ({number(least)})")

    ratio = "" if row.ratio is None else quotient(row.ratio)
    if row.ratio_of_minima is not None:
        ratio += f" ({quotient(row.ratio_of_minima)})"
    reference = " ".join(part for part in (timed(row.reference, row.reference_least), row.against) if part)
    met = {None: "", True: "yes", False: "no"}[row.met]
    name = row.name + (f"; {row.note}" if row.note else "")
    return [name, timed(row.ours, row.ours_least), reference, ratio, aim_text(row.aim, row.unit), met]


COLUMNS = ("", "ours (least)", "reference (least)", "ours / reference", "aim", "met")


# ---- outputs


def to_screen(outcomes: Sequence[Outcome], machine: Machine, console: Console) -> None:
    for outcome in outcomes:
        title = f"{outcome.title}; {machine.processor}, {machine.threads} threads, {outcome.seconds:.0f} s"
        if outcome.skipped:
            console.print(f"{outcome.name}: skipped: {outcome.skipped}", highlight=False)
            continue
        table = Table(*COLUMNS, title=title)
        for row in outcome.rows:
            table.add_row(*cells(row))
        console.print(table)


def to_markdown(outcomes: Sequence[Outcome], machine: Machine) -> str:
    """The page of results; made anew by each run."""
    versions = ", ".join(f"{name} {found}" for name, found in machine.versions.items())
    lines = [
        "# Speed, size and memory",
        "",
        f"Made by `python -m benchmarks` on {machine.date}, not edited by hand. {machine.processor}, "
        f"{machine.threads} threads of the kernels, {machine.torch_threads} of torch; GPU: {machine.gpu or 'none'}. "
        f"Python {machine.python}, {versions}; commit {machine.commit}.",
        "",
        "What is compared ran alternately in one process; medians, with the least in brackets.",
    ]
    for outcome in outcomes:
        lines += ["", f"## {outcome.title}", ""]
        if outcome.skipped:
            lines.append(f"Skipped: {outcome.skipped}")
            continue
        lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in outcome.rows]
    aims = [row.met for outcome in outcomes for row in outcome.rows if row.met is not None]
    lines += ["", f"{sum(aims)} of {len(aims)} aims met."]
    return "\n".join(lines) + "\n"


def to_json(outcomes: Sequence[Outcome], machine: Machine) -> str:
    def row(row: Row) -> dict[str, object]:
        computed = {"ratio": row.ratio, "ratio_of_minima": row.ratio_of_minima, "met": row.met}
        return {**asdict(row), **computed}

    sections = [{**asdict(outcome), "rows": [row(each) for each in outcome.rows]} for outcome in outcomes]
    return json.dumps({**asdict(machine), "sections": sections}, indent=1, ensure_ascii=False) + "\n"


def write(outcomes: Sequence[Outcome], machine: Machine, table: Path, data: Path) -> None:
    """The Markdown table for people, and everything that was measured as JSON; the repository keeps tables only."""
    for path, text in ((table, to_markdown(outcomes, machine)), (data, to_json(outcomes, machine))):
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
