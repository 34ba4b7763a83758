"""What python -m benchmarks shows and writes, and which sections it runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import exports, sections
from benchmarks.report import Machine, cells, machine, number, quotient, to_json, to_markdown, to_screen, write
from benchmarks.rows import Aim, Outcome, Row, Section, Setting, Skip
from fit3d_ns.common.errors import InputError

HERE = Machine("2026-11-24", "A processor", None, 2, 2, "3.11", {"torch": "2"}, "abc")
ROWS = (
    Row("fast", "ms", 2.0, 100.0, "twin", 1.0, 80.0, Aim("ratio", "at most", 1 / 40)),
    Row("slow", "s", 12.0, aim=Aim("ours", "at most", 10.0), note="alone"),
    Row("p", "", 1.25, points=((1.0, 2.0), (2.0, 4.8))),
)
OUTCOMES = [Outcome("one", "One thing", ROWS), Outcome("two", "Another", skipped="no GPU | none")]


def setting(tmp_path: Path, quick: bool = True) -> Setting:
    return Setting(tmp_path, quick, "cpu", lambda: (), (), tmp_path)


def test_cells_say_figures_ratio_aim_and_whether_it_is_met() -> None:
    assert cells(ROWS[0]) == ["fast", "2.00 ms (1.00)", "100 ms (80.0) twin", "1/50.0 (1/80.0)", "≤ 1/40", "yes"]
    assert cells(ROWS[1]) == ["slow; alone", "12.0 s", "", "", "≤ 10 s", "no"]
    assert cells(ROWS[2]) == ["p", "1.25", "", "", "", ""]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0000"), (1234.5, "1,234"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123"), (1e-6, "1.0e-06")],
)
def test_numbers_have_about_three_figures(value: float, text: str) -> None:
    assert number(value) == text


def test_small_ratios_are_shown_as_one_over() -> None:
    assert (quotient(0.025), quotient(0.9), quotient(4)) == ("1/40.0", "0.9000", "4.00")


def test_markdown_has_one_table_per_section_and_counts_the_aims() -> None:
    page = to_markdown(OUTCOMES, HERE)
    assert "| fast | 2.00 ms (1.00) | 100 ms (80.0) twin | 1/50.0 (1/80.0) | ≤ 1/40 | yes |" in page
    assert "Skipped: no GPU | none" in page
    assert page.endswith("1 of 2 aims met.\n")
    for word in ("2026-11-24", "A processor", "2 threads", "torch 2", "commit abc", "GPU: none"):
        assert word in page
    widths = {line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_json_holds_what_was_measured_and_what_follows_from_it() -> None:
    data = json.loads(to_json(OUTCOMES, HERE))
    first, second, third = data["sections"][0]["rows"]
    assert (first["ours"], first["reference"], first["ratio"], first["met"]) == (2.0, 100.0, 0.02, True)
    assert first["ratio_of_minima"] == 1 / 80
    assert (second["met"], second["ratio"]) == (False, None)
    assert third["points"] == [[1.0, 2.0], [2.0, 4.8]]
    assert data["sections"][1]["skipped"] == "no GPU | none"
    assert {"date", "processor", "gpu", "threads", "versions", "commit"} <= data.keys()


def test_the_screen_shows_rows_and_reasons() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    to_screen(OUTCOMES, HERE, console)
    text = console.export_text()
    assert "One thing" in text
    assert "≤ 1/40" in text
    assert "two: skipped: no GPU | none" in text


def test_both_files_are_written_together(tmp_path: Path) -> None:
    write(OUTCOMES, HERE, tmp_path / "new" / "speed.md", tmp_path / "work" / "all.json")
    assert (tmp_path / "new" / "speed.md").read_text() == to_markdown(OUTCOMES, HERE)
    assert (tmp_path / "work" / "all.json").read_text() == to_json(OUTCOMES, HERE)
    assert len(list(tmp_path.rglob("*.*"))) == 2


def test_the_results_of_the_repository_are_tables() -> None:
    files = [path for path in command.RESULTS.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert {path.suffix for path in files} == {".md"}, "data stay where the benchmark runs"
    assert max(path.stat().st_size for path in files) < 100_000


def test_this_machine_has_a_name_and_versions() -> None:
    here = machine()
    assert here.processor
    assert here.threads >= 1
    assert here.versions["torch"] != "not installed"


# ---- sections


def test_sections_are_chosen_by_name_in_their_own_order() -> None:
    names = [section.name for section in sections.SECTIONS]
    assert len(set(names)) == len(names)
    assert command.chosen([]) == list(sections.SECTIONS)
    assert [section.name for section in command.chosen([names[3], names[0]])] == [names[0], names[3]]
    with pytest.raises(InputError, match=r"--only names rasterizer; choose from rasteriser, lifting"):
        command.chosen(["rasterizer"])


def test_a_section_that_cannot_run_says_why_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Setting) -> list[Row]:
        raise Skip("there is no GPU")

    some = (Section("no", "No", refuse), Section("yes", "Yes", lambda _: [ROWS[0]]))
    monkeypatch.setattr(command, "chosen", lambda names: list(some))
    command.run(command.parse(["--output", str(tmp_path), "--work-dir", str(tmp_path), "--device", "cpu"]))
    data = json.loads((tmp_path / "speed.json").read_text())
    assert [(s["name"], s["skipped"], len(s["rows"])) for s in data["sections"]] == [
        ("no", "there is no GPU", 0),
        ("yes", "", 1),
    ]
    assert "there is no GPU" in capsys.readouterr().out


def test_a_rehearsal_does_not_replace_the_committed_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(command, "chosen", lambda names: [Section("yes", "Yes", lambda _: [ROWS[0]])])
    for arguments, where in ((["--quick"], "work"), (["--only", "yes"], "work"), ([], "results")):
        for old in tmp_path.rglob("speed.*"):
            old.unlink()
        command.run(command.parse([*arguments, "--work-dir", str(tmp_path / "work"), "--device", "cpu"]))
        assert [path.parent.name for path in sorted(tmp_path.rglob("speed.md"))] == [where]
        assert [path.parent.name for path in sorted(tmp_path.rglob("speed.json"))] == ["work"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "gpu"], "--only names gpu"),
        (["--exports", "nowhere"], "--exports nowhere has no scene.json"),
        (["--stage1-steps", "1"], "--stage1-steps is 1"),
    ],
)
def test_bad_arguments_are_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command.run(command.parse([*arguments, "--output", str(tmp_path / "out")]))
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_cuda_section_is_skipped_without_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(Skip, match="no figure of a GPU is claimed"):
        sections.cuda.measure(setting(tmp_path))


def test_exports_are_made_once_and_a_short_run_is_not_taken_for_a_long_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def pretend(task: exports.Task, logs: Path) -> None:
        done.append(task.name)
        assert all(need in {t.makes for t in made} for need in task.needs)
        made.append(task)

    made: list[exports.Task] = []
    monkeypatch.setattr(exports, "run", pretend)
    quick = exports.make_exports([tmp_path / "a", tmp_path / "b"], tmp_path / "work", quick=True)
    whole = exports.make_exports([tmp_path / "a"], tmp_path / "work", quick=False)
    assert len(done) == 6
    assert len({task.makes for task in made}) == 6
    assert [path.name for path in (*quick, *whole)] == ["a", "b", "a"]
    assert quick[0] != whole[0]
