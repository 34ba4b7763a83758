"""Which scenes stand out, and the summary that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from fit3d_ns.scheduling.plan import Plan, Status
from fit3d_ns.scheduling.summary import outliers, page, table, write_summary


def scenes(*psnr: float) -> list[Status]:
    figures = [{"psnr": value, "ssim": 0.9, "gaussians": 40_000.0} for value in psnr]
    return [Status(f"s{i}", "done", seconds=100.0 + i, figures=each) for i, each in enumerate(figures)]


def test_a_figure_far_from_the_median_stands_out() -> None:
    assert outliers(scenes(29.0, 30.0, 30.5, 31.0, 12.0, 29.5)) == {"s4": ["psnr"]}


def test_few_scenes_and_equal_ones_do_not() -> None:
    assert outliers(scenes(30.0, 30.0, 30.0, 12.0)) == {}
    assert outliers(scenes(30.0, 30.0, 30.0, 30.0, 30.01)) == {}
    assert outliers(scenes(30.0, 30.0, 30.0, 30.0, 31.0)) == {"s4": ["psnr"]}


def test_what_failed_or_was_there_before_does_not_count_where_it_has_no_figure() -> None:
    statuses = [*scenes(30.0, 30.5, 29.5, 30.0, 29.8), Status("broken", "failed", fault="no photos")]
    statuses.append(Status("old", "done", figures={"psnr": 30.0}, found=True))
    assert outliers(statuses) == {}


def test_the_summary_has_every_scene_with_its_fault(tmp_path: Path) -> None:
    plan = Plan({}, str(tmp_path), str(tmp_path / "work"), "fit3d-features-fast")
    statuses = [*scenes(29.0, 30.0, 30.5, 31.0, 12.0), Status("bad", "failed", attempt=2, fault="it has <no> photos")]
    data, html = write_summary(plan, statuses)
    found = json.loads(data.read_text())
    assert [scene["stands_out"] for scene in found["scenes"]] == [[], [], [], [], ["psnr"], []]
    assert found["scenes"][-1]["fault"] == "it has <no> photos"
    assert "it has &lt;no&gt; photos" in html.read_text()
    assert "<td class=far>12.00</td>" in page(plan, statuses)


def test_the_table_marks_them(capsys: pytest.CaptureFixture[str]) -> None:
    Console(force_terminal=True, width=100).print(table(scenes(29.0, 30.0, 30.5, 31.0, 12.0)))
    assert "[31m12.00" in capsys.readouterr().out.replace("\x1b", "")
