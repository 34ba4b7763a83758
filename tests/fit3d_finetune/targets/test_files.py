"""The folder of targets, of which there may be very many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fit3d_finetune.targets.files import LEAST_CLAIMS_PER_LOOK, TargetFolder


def test_files_are_looked_at_a_few_times_each_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{index}.safetensors" for index in range(6 * LEAST_CLAIMS_PER_LOOK)]
    for file in files:
        file.touch()
    seen, glob = [0], Path.glob

    def counted(self: Path, pattern: str) -> Iterator[Path]:
        for path in glob(self, pattern):
            seen[0] += 1
            yield path

    monkeypatch.setattr(Path, "glob", counted)
    folder = TargetFolder(tmp_path, 1_000_000)
    for file in files:
        assert folder.claim(file, 1)
    assert 1 <= seen[0] / len(files) <= 2


def test_files_that_another_run_left_make_room_also_when_they_came_later(tmp_path: Path) -> None:
    folder = TargetFolder(tmp_path, 1_000)
    for index in range(LEAST_CLAIMS_PER_LOOK):
        assert folder.claim(tmp_path / f"{index}.safetensors", 1)
    other = tmp_path / "of another run.safetensors"
    other.write_bytes(b"x" * 900)
    assert folder.claim(tmp_path / "one more.safetensors", 1)
    assert not other.exists()
