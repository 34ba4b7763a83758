"""An export that is interrupted leaves the old one or nothing, never a half."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fit3d_ns.common.errors import InputError
from fit3d_ns.scene import gaussians as module
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_ns.scene.scenes import make_gaussians


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("step", ["save_file", "write_splat_ply"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_while_writing_leaves_the_old_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    make_gaussians(tmp_path / "capture", seed=1).save(tmp_path / "runs/room")
    before = {name: (tmp_path / "runs/room" / name).read_bytes() for name in names_in(tmp_path / "runs/room")}

    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(type(error)):
        make_gaussians(tmp_path / "capture", seed=2).save(tmp_path / "runs/room", overwrite=True)
    assert {name: (tmp_path / "runs/room" / name).read_bytes() for name in before} == before
    assert names_in(tmp_path / "runs") == ["room"]


def test_an_error_while_writing_leaves_nothing_where_there_was_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "write_splat_ply", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_gaussians(tmp_path).save(tmp_path / "runs/room")
    assert names_in(tmp_path / "runs") == []


SAVE = """
    import sys, time
    from pathlib import Path
    from fit3d_ns.scene import gaussians
    from fit3d_ns.scene.ply import write_splat_ply
    from tests.fit3d_ns.scene.scenes import make_gaussians

    def write_half(path, splats):
        write_splat_ply(path, splats)
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size // 2)
        print("writing", flush=True)
        time.sleep(60)

    folder = Path(sys.argv[1])
    scene = make_gaussians(folder / "capture", seed=2)
    gaussians.write_splat_ply = write_half
    scene.save(folder / "runs/room", overwrite=True)
"""


@pytest.mark.parametrize("there_was_one", [False, True])
def test_sigkill_while_writing_leaves_the_old_export_or_nothing(tmp_path: Path, there_was_one: bool) -> None:
    old = make_gaussians(tmp_path / "capture", seed=1)
    if there_was_one:
        old.save(tmp_path / "runs/room")
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SAVE), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if there_was_one:
        assert (FeatureGaussians.load(tmp_path / "runs/room").means == old.means).all()
    else:
        with pytest.raises(InputError, match=r"has no scene\.json"):
            FeatureGaussians.load(tmp_path / "runs/room")
    # Whoever starts again gets a whole export, whatever the killed process left behind.
    new = make_gaussians(tmp_path / "capture", seed=3)
    new.save(tmp_path / "runs/room", overwrite=True)
    assert names_in(tmp_path / "runs") == ["room"]
    assert (FeatureGaussians.load(tmp_path / "runs/room").means == new.means).all()


def test_a_reader_never_sees_a_half_written_export(tmp_path: Path) -> None:
    """Kill while one export after the other is written: the folder is absent or loads whole."""
    finished = """
        import sys
        from pathlib import Path
        from tests.fit3d_ns.scene.scenes import make_gaussians
        folder = Path(sys.argv[1])
        scene = make_gaussians(folder / "capture", count=50_000)
        print("start", flush=True)
        while True:
            scene.save(folder / "runs/room")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(finished), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "start\n"
    time.sleep(0.7)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if (tmp_path / "runs/room").exists():
        FeatureGaussians.load(tmp_path / "runs/room")
