"""However a command fails, its user reads one sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fit3d_ns.common.ending import LOGS, ends_in_one_sentence
from fit3d_ns.common.errors import InputError


def ending_of(work: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of a command that does this, and what it wrote to stderr."""
    with pytest.raises(SystemExit) as exit_:
        ends_in_one_sentence(work)()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, capsys.readouterr().err


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["/somewhere/fit3d-probe", "--test-data", "my room"])
    return tmp_path / "cache" / LOGS


def test_bad_input_ends_in_its_sentence(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_of(raising(InputError("--seeds is empty: give one.")), capsys) == (
        2,
        "error: --seeds is empty: give one.\n",
    )
    assert not logs.exists()


def test_the_unexpected_ends_in_a_sentence_that_names_a_log_with_the_traceback(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError("a\nlong\tstory " + "x" * 5000) from error

    code, said = ending_of(work, capsys)
    assert code == 1
    assert said.startswith("error: RuntimeError: a long story xxx")
    assert said.count("\n") == 1
    assert len(said) < 700
    [log] = logs.iterdir()
    assert str(log) in said
    text = log.read_text()
    assert "$ fit3d-probe --test-data 'my room'" in text
    assert "KeyError: 'inner'" in text
    assert "in work" in text
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), "No space left on device: 'out/x'"),
        (MemoryError(), "the memory was not enough"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (ValueError("\ud800"), "ValueError"),
    ],
)
def test_what_happened_is_said(error: Exception, words: str, logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ending_of(raising(error), capsys)
    assert code == 1
    assert words in said
    assert len(list(logs.iterdir())) == 1


def test_only_the_newest_logs_are_kept(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.mkdir(parents=True)
    for index in range(30):
        (logs / f"fit3d-lift-{index}.log").write_text("")
        os.utime(logs / f"fit3d-lift-{index}.log", (index, index))
    (logs / "notes.txt").write_text("not a log")
    ending_of(raising(ValueError("now")), capsys)
    names = {path.name for path in logs.iterdir()}
    assert len(names) == 21
    assert {"notes.txt", "fit3d-lift-29.log"} < names
    assert "fit3d-lift-10.log" not in names


def test_without_a_cache_the_log_is_a_temporary_file(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    _, said = ending_of(raising(ValueError("now")), capsys)
    [log] = (tmp_path / "temporary").iterdir()
    assert str(log) in said


def test_stopping_is_not_a_fault(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_of(raising(KeyboardInterrupt()), capsys) == (130, "stopped\n")


def test_exit_codes_of_others_pass(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_of(raising(SystemExit(7)), capsys) == (7, "")


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    code = (
        "from fit3d_ns.common.ending import ends_in_one_sentence\n"
        "@ends_in_one_sentence\n"
        "def main():\n"
        "    for _ in range(100000):\n"
        "        print('a line')\n"
        "main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (1, b"")
