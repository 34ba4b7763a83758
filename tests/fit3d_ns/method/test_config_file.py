"""A config.yml is read as nerfstudio reads it, and nothing that it names is run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.configs.method_configs import method_configs

from fit3d_ns.commands import export, lift
from fit3d_ns.common.errors import InputError
from fit3d_ns.method import config_file
from fit3d_ns.method.config_file import load_config
from fit3d_ns.method.export import export_run
from fit3d_ns.method.release_0_1 import MOVED
from fit3d_ns.method.run_folder import use_no_shell
from tests.fit3d_ns.method.colmap_model import write_colmap_model
from tests.fit3d_ns.method.runs import PRESETS, make_config, train
from tests.scenes import write_capture

ALL_METHODS = {**method_configs, **{name: method.config for name, method in PRESETS.items()}}


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yml"
    path.write_text(text)
    return path


# ---- what nerfstudio writes


@pytest.mark.parametrize("method", sorted(ALL_METHODS))
def test_every_method_reads_as_nerfstudio_reads_it(method: str, tmp_path: Path) -> None:
    text = yaml.dump(ALL_METHODS[method])
    config = load_config(written(tmp_path, text))
    assert config == yaml.load(text, Loader=yaml.Loader) == ALL_METHODS[method]
    again = yaml.dump(config)
    if sys.version_info < (3, 13):  # since then paths are written as they were given, equal ones in other words
        assert again == text
    assert yaml.dump(load_config(written(tmp_path, again))) == again


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_names_of_release_0_1_are_understood(preset: str, tmp_path: Path) -> None:
    text = yaml.dump(PRESETS[preset].config)
    old = text
    for before, after in MOVED.items():
        old = old.replace(f":{after}.", f":{before}.")
    assert old != text
    assert load_config(written(tmp_path, old)) == PRESETS[preset].config


def test_fields_that_came_later_have_their_defaults_and_gone_ones_do_no_harm(tmp_path: Path) -> None:
    config = PRESETS["fit3d-features"].config
    text = yaml.dump(config)
    kept = [line for line in text.splitlines(keepends=True) if "relative_model_dir" not in line]
    place = next(i for i, line in enumerate(text.splitlines()) if "relative_model_dir" in line)
    assert text.splitlines()[place + 1].startswith("- ")
    del kept[place]
    loaded = load_config(written(tmp_path, "".join(kept) + "some_field_of_old: 3\n"))
    assert loaded.relative_model_dir == config.relative_model_dir
    assert loaded == config


# ---- what it refuses


class Trap:
    """Something that a config.yml may try, and would leave a mark behind if it ran."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "pwned"
        self.command = f"touch {self.mark}"

    def sprung(self) -> bool:
        return self.mark.exists()


def run_by_os(trap: Trap) -> str:
    return f"!!python/object/apply:os.system ['{trap.command}']"


def run_by_posix(trap: Trap) -> str:
    return f"!!python/object/apply:posix.system ['{trap.command}']"


def run_by_subprocess(trap: Trap) -> str:
    return f"!!python/object/apply:subprocess.Popen [['touch', '{trap.mark}']]"


def run_by_new(trap: Trap) -> str:
    return f"!!python/object/new:subprocess.Popen [['touch', '{trap.mark}']]"


def run_by_eval(trap: Trap) -> str:
    code = f"__import__('os').system('{trap.command}')"
    return f'!!python/object/apply:builtins.eval ["{code}"]'


def run_by_nerfstudio(trap: Trap) -> str:
    return f"!!python/object/apply:nerfstudio.utils.scripts.run_command ['{trap.command}']"


def run_by_nerfstudios_imports(trap: Trap) -> str:
    return f"!!python/object/apply:nerfstudio.utils.scripts.subprocess.run [['touch', '{trap.mark}']]"


def run_by_a_state(trap: Trap) -> str:
    return (
        f"!!python/object/new:type {{args: ['z', !!python/tuple [], {{extend: !!python/name:exec }}]}}\n# {trap.mark}"
    )


def run_by_importing(trap: Trap) -> str:
    (trap.mark.parent / "evil.py").write_text(f"open({str(trap.mark)!r}, 'w')")
    return "!!python/module:evil"


def run_by_naming_in_a_module(trap: Trap) -> str:
    (trap.mark.parent / "evil.py").write_text(f"open({str(trap.mark)!r}, 'w')\nclass A: pass")
    return "!!python/name:evil.A"


def run_by_a_package_that_sounds_like_ours(trap: Trap) -> str:
    (trap.mark.parent / "fit3d_ns_evil.py").write_text(f"open({str(trap.mark)!r}, 'w')\nclass A: pass")
    return "!!python/object:fit3d_ns_evil.A {}"


def run_by_a_deep_anchor(trap: Trap) -> str:
    return f"[&a !!python/object/apply:os.system ['{trap.command}'], *a]"


def run_by_a_key(trap: Trap) -> str:
    return f"{{!!python/object/apply:os.system ['{trap.command}'] : 1}}"


def run_in_a_tuple(trap: Trap) -> str:
    return f"!!python/tuple [!!python/object/apply:os.system ['{trap.command}']]"


def run_in_a_path(trap: Trap) -> str:
    return f"!!python/object/apply:pathlib.PosixPath [!!python/object/apply:os.popen ['{trap.command}']]"


def run_in_an_enumeration(trap: Trap) -> str:
    return (
        f"!!python/object/apply:nerfstudio.utils.writer.EventName [!!python/object/apply:os.system ['{trap.command}']]"
    )


TRAPS: list[Callable[[Trap], str]] = [
    *(run_by_os, run_by_posix, run_by_subprocess, run_by_new, run_by_eval, run_by_nerfstudio),
    *(run_by_nerfstudios_imports, run_by_a_state, run_by_importing, run_by_naming_in_a_module),
    *(run_by_a_package_that_sounds_like_ours, run_by_a_deep_anchor, run_by_a_key, run_in_a_tuple, run_in_a_path),
    run_in_an_enumeration,
]


def good_config(folder: Path) -> str:
    return yaml.dump(make_config(folder / "capture", folder / "outputs", steps=1))


@pytest.mark.parametrize("place", ["alone", "in a field"])
@pytest.mark.parametrize("set_trap", TRAPS)
def test_what_would_run_is_refused_and_not_run(
    set_trap: Callable[[Trap], str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    trap = Trap(tmp_path)
    text = set_trap(trap) if place == "alone" else f"{good_config(tmp_path)}more: {set_trap(trap)}\n"
    with pytest.raises(InputError) as refused:
        load_config(written(tmp_path, text))
    assert not trap.sprung()
    assert "\n" not in str(refused.value)
    if place == "in a field":
        assert "names '" in str(refused.value)


@pytest.mark.parametrize("set_trap", [run_by_os, run_by_eval, run_by_nerfstudio, run_by_importing])
def test_the_traps_are_real(set_trap: Callable[[Trap], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nerfstudio's own way of reading runs them."""
    monkeypatch.syspath_prepend(str(tmp_path))
    trap = Trap(tmp_path)
    text = set_trap(trap)
    yaml.load(text, Loader=yaml.Loader)
    sys.modules.pop("evil", None)
    assert trap.sprung()


COLLATE = "nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate"
MINIMAL = "nerfstudio.data.dataparsers.minimal_dataparser.MinimalDataParserConfig"
REFUSED_NAMES = {
    "a function as target": "_target: !!python/name:nerfstudio.utils.scripts.run_command ''",
    "what nerfstudio imported": "_target: !!python/name:nerfstudio.engine.trainer.TrainingCallback ''",
    "another target": "_target: !!python/name:nerfstudio.utils.writer.LocalWriter ''",
    "a collate function as target": f"_target: !!python/name:{COLLATE} ''",
    "a method": "setup: !!python/name:nerfstudio.utils.writer.LocalWriter ''",
    "a dunder": "__class__: !!python/name:nerfstudio.utils.writer.LocalWriter ''",
    "a module outside": "other: !!python/name:nerfstudio.scripts.train.main ''",
    "an installer": "other: !!python/object:nerfstudio.configs.external_methods.ExternalMethodDummyTrainerConfig {}",
    "a pickle reader": f"other: !!python/object:{MINIMAL} {{}}",
    "no dataclass": "other: !!python/object:nerfstudio.engine.trainer.Trainer {}",
    "one that is not there": "other: !!python/object:nerfstudio.engine.trainer.NoSuchThing {}",
    "a module that is not there": "other: !!python/object:nerfstudio.engine.nowhere.NoSuchThing {}",
    "an odd name": "other: !!python/name:nerfstudio.engine..x ''",
    "a builtin": "other: !!python/name:builtins.eval ''",
    "an index into what is no class": "other: !!python/object/apply:_operator.getitem [[1, 2], 0]",
    "a complex number": "other: !!python/complex 1j",
    "bytes": "other: !!python/bytes aGk=",
}


@pytest.mark.parametrize("what", REFUSED_NAMES)
def test_names_that_a_configuration_has_no_need_of_are_refused(what: str, tmp_path: Path) -> None:
    lines = [line for line in good_config(tmp_path).splitlines() if not line.startswith("_target:")]
    if not REFUSED_NAMES[what].startswith("_target"):
        lines = good_config(tmp_path).splitlines()
    with pytest.raises(InputError, match=r"config\.yml names '.*: nothing was run"):
        load_config(written(tmp_path, "\n".join([*lines, REFUSED_NAMES[what]]) + "\n"))


BROKEN = ["", "a: 1", "- 1", "a: [", "\t", "a: &x", "{" * 5000, "!!timestamp 2024-99-99", "!!python/tuple 3", "!x 1"]
BROKEN += ["!!python/object:nerfstudio.engine.trainer.TrainerConfig 3", "!!python/object/apply:pathlib.PosixPath [3]"]
BROKEN += ["!!python/object/apply:nerfstudio.utils.writer.EventName [no such event]"]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_configuration_is_one_sentence(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yml is not ") as error:
        load_config(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_not_text_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_config(tmp_path / "config.yml")
    (tmp_path / "config.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a configuration"):
        load_config(tmp_path / "config.yml")


# ---- in the commands


def hostile_run(folder: Path, trap: Trap) -> Path:
    run = folder / "outputs/tiny/fit3d-features-fast/run"
    (run / "nerfstudio_models").mkdir(parents=True)
    (run / "nerfstudio_models/step-000000000.ckpt").write_bytes(b"")
    return written(run, f"{good_config(folder)}more: {run_by_os(trap)}\n")


def test_no_command_runs_what_a_config_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trap = Trap(tmp_path)
    path = hostile_run(tmp_path, trap)
    runs = tmp_path / "runs"
    attempts: list[Callable[[], object]] = [
        lambda: export.run(export.ExportArguments(load_config=path, output_dir=runs)),
        lambda: export.run(export.ExportArguments(all=tmp_path / "outputs", output_dir=runs)),
        lambda: lift.run(lift.LiftArguments(load_config=path, output_dir=runs)),
    ]
    for attempt in attempts:
        with pytest.raises(SystemExit) as stop:
            attempt()
        assert stop.value.code == 2
        assert not trap.sprung()
        assert not runs.exists()
    assert "names 'os.system'" in capsys.readouterr().err


def test_no_script_runs_what_a_config_names(tmp_path: Path) -> None:
    """As a user starts them, with all that importing the packages does."""
    trap = Trap(tmp_path)
    path = hostile_run(tmp_path, trap)
    for arguments in (["--load-config", str(path)], ["--all", str(tmp_path / "outputs")]):
        script = str(Path(sys.executable).with_name("fit3d-export"))
        done = subprocess.run([script, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 2, done.stderr[-3000:]
        assert not trap.sprung()


def test_a_checkpoint_that_would_run_is_refused(tmp_path: Path) -> None:
    trap = Trap(tmp_path)
    capture = write_capture(tmp_path / "capture")
    trainer = train(make_config(capture, tmp_path / "outputs", steps=2))

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (trap.command,)

    (checkpoint,) = trainer.checkpoint_dir.iterdir()
    torch.save({"pipeline": {"x": Evil()}, "step": 1}, checkpoint)
    config = trainer.base_dir / "config.yml"
    for attempt in (
        lambda: export_run(config, tmp_path / "runs"),
        lambda: lift._source(lift.LiftArguments(load_config=config)),
    ):
        with pytest.raises(InputError, match="is no checkpoint"):
            attempt()
        assert not trap.sprung()


def test_photos_are_not_resized_by_a_shell_command_made_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nerfstudio's COLMAP parser does that where the smaller photos are missing."""
    from nerfstudio.data.dataparsers import colmap_dataparser
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

    capture = write_capture(tmp_path / "capture")
    write_colmap_model(capture)
    commands: list[str] = []
    monkeypatch.setattr(colmap_dataparser, "run_command", commands.append)
    for answer in (True, False):
        monkeypatch.setattr(colmap_dataparser.Confirm, "ask", lambda *_, answer=answer, **__: answer)
        config = ColmapDataParserConfig(data=capture, colmap_path=Path("sparse/0"), downscale_factor=2)
        use_no_shell(config)
        with pytest.raises(InputError, match="1/2 of their size"):
            config.setup().get_dataparser_outputs("train")
        assert commands == []
    whole = ColmapDataParserConfig(data=capture, colmap_path=Path("sparse/0"), downscale_factor=1)
    use_no_shell(whole)
    assert len(whole.setup().get_dataparser_outputs("train").image_filenames) > 0


def test_members_of_enumerations_are_read_as_python_3_11_2_writes_them_and_nothing_else_is_got(tmp_path: Path) -> None:
    camera = "nerfstudio.cameras.cameras.CameraType"
    got = "!!python/object/apply:builtins.getattr\n- !!python/name:{} ''\n- {}\n"
    loader = config_file._Loader(got.format(camera, "PERSPECTIVE"))
    loader.path = tmp_path
    assert loader.get_single_data() is CameraType.PERSPECTIVE
    for name, member in ((camera, "__class__"), (camera, "mro"), ("nerfstudio.cameras.cameras.Cameras", "to")):
        loader = config_file._Loader(got.format(name, member))
        loader.path = tmp_path
        with pytest.raises(InputError, match="no need to call"):
            loader.get_single_data()
