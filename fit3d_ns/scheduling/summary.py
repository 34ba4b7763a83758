"""What came of many scenes: a table that follows them, and a summary that shows which ones stand out."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from rich.table import Table

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.scheduling.plan import MEASURED, Plan, Status

FIGURES = (*MEASURED, "gaussians", "seconds")
FAR = 3.5
"""Deviations, estimated by the median of the absolute ones (Iglewicz and Hoaglin, 1993), from which a scene stands
out."""
ENOUGH = 5
"""Scenes, below which none is said to stand out."""
SUMMARY_FILE, PAGE_FILE = "scenes.json", "scenes.html"


def values_of(status: Status) -> dict[str, float]:
    """The figures of a scene, with the seconds where it was worked on."""
    return {**status.figures, **({} if status.found else {"seconds": status.seconds})}


def outliers(statuses: Sequence[Status]) -> dict[str, list[str]]:
    """By scene: which figures are far from those of the others."""
    found: dict[str, list[str]] = {}
    done = [status for status in statuses if status.state == "done"]
    for name in FIGURES:
        values = {status.scene: values_of(status)[name] for status in done if name in values_of(status)}
        if len(values) < ENOUGH:
            continue
        middle = median(values.values())
        spread = 1.4826 * median(abs(value - middle) for value in values.values())
        for scene, value in values.items():
            # Where most are the same to the digit, any other is not yet far: a thousandth of the value is no deviation.
            if abs(value - middle) > FAR * max(spread, 1e-3 * abs(middle)):
                found.setdefault(scene, []).append(name)
    return found


def table(statuses: Sequence[Status]) -> Table:
    """All scenes, as far as they are; those that stand out in red."""
    far = outliers(statuses)
    shown = Table("scene", "state", "PSNR", "SSIM", "cosine", "Gaussians", "s")
    for status in statuses:
        state = "done before" if status.found else status.state
        again = f" (try {status.attempt})" if status.attempt > 1 else ""
        cells = _cells(status)
        marked = [
            f"[red]{cell}[/red]" if name in far.get(status.scene, []) else cell
            for name, cell in zip(FIGURES, cells, strict=True)
        ]
        shown.add_row(status.scene, state + again, *marked)
    return shown


def write_summary(plan: Plan, statuses: Sequence[Status]) -> tuple[Path, Path]:
    """scenes.json and scenes.html in the output folder; returns both."""
    far, folder = outliers(statuses), Path(plan.output_dir)
    values = {
        "format_version": 1,
        "method": plan.method,
        "scenes": [{**asdict(status), "stands_out": far.get(status.scene, [])} for status in statuses],
    }
    with atomic_file(folder / SUMMARY_FILE) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
    with atomic_file(folder / PAGE_FILE) as temporary:
        temporary.write_text(page(plan, statuses))
    return folder / SUMMARY_FILE, folder / PAGE_FILE


def page(plan: Plan, statuses: Sequence[Status]) -> str:
    """The summary as a page by itself."""
    far = outliers(statuses)
    rows = []
    for status in statuses:
        cells = "".join(
            f"<td{' class=far' if name in far.get(status.scene, []) else ''}>{cell}</td>"
            for name, cell in zip(FIGURES, _cells(status), strict=True)
        )
        note = status.fault if status.fault else f"try {status.attempt}" if status.attempt > 1 else ""
        rows.append(
            f"<tr class={status.state}><td>{html.escape(status.scene)}</td><td>{status.state}</td>{cells}"
            f"<td>{html.escape(note)}</td></tr>"
        )
    failed = sum(status.state == "failed" for status in statuses)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Scenes</title><style>
body {{ font: 15px sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse }} td, th {{ padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: right }}
td:first-child, td:last-child, th:first-child {{ text-align: left }}
.far {{ background: #fdd }} .failed {{ color: #a00 }}
</style></head><body>
<h1>{len(statuses)} scenes, {html.escape(plan.method)}</h1>
<p>{failed} failed; {len(far)} stand out (marked): a figure of theirs is more than {FAR} deviations from the median.</p>
<table><tr><th>scene<th>state<th>PSNR, dB<th>SSIM<th>cosine<th>Gaussians<th>seconds<th></tr>
{chr(10).join(rows)}
</table></body></html>
"""


def _cells(status: Status) -> list[str]:
    values = values_of(status)
    forms = ("{:.2f}", "{:.3f}", "{:.3f}", "{:,.0f}", "{:.0f}")
    return [
        form.format(values[name]) if name in values and (name != "seconds" or values[name] > 0) else ""
        for name, form in zip(FIGURES, forms, strict=True)
    ]
