"""fit3d-demo: what is refused before it starts, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from fit3d_finetune.commands.demo import DemoArguments, parse, run
from fit3d_ns.common.errors import InputError
from tests.console_scripts import end_group
from tests.fit3d_finetune.page.folders import write_folder


def test_the_page_is_for_this_machine_alone_unless_asked() -> None:
    arguments = parse(["--finetuned", "finetuned/"])
    assert (arguments.finetuned, arguments.host, arguments.port) == (Path("finetuned"), "127.0.0.1", 7860)


def test_what_is_wrong_is_said_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="needs gradio")
    monkeypatch.setattr("fit3d_finetune.page.features.load_backbones", None)
    folder = write_folder(tmp_path / "finetuned", heads=False)
    for arguments, said in (
        (DemoArguments(tmp_path), "not a fine-tuned backbone"),
        (DemoArguments(folder, max_size=10), "--max-size"),
        (DemoArguments(folder, port=-1), "--port"),
        (DemoArguments(folder, port=0, examples=tmp_path / "none"), "--examples"),
    ):
        with pytest.raises(InputError, match=said):
            run(arguments)


@pytest.mark.parametrize("ending", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_it_serves_until_it_is_told_to_end_and_leaves_nothing(ending: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs gradio")
    folder, log = write_folder(tmp_path / "finetuned", heads=False), tmp_path / "log"
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "fit3d_finetune.commands.demo", "--finetuned", str(folder), "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(tmp_path / "temporary"), "COLUMNS": "300"},
        )
    try:
        deadline = time.monotonic() + 180
        while (found := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert b"gradio" in opener.open(found[0], timeout=60).read()
        assert any((tmp_path / "temporary").glob("fit3d-demo-*"))
        process.send_signal(ending)
        assert process.wait(timeout=60) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
        assert not any((tmp_path / "temporary").glob("fit3d-demo-*"))
    finally:
        end_group(process)
