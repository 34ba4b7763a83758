"""fit3d-doctor: what is missing here that fit3d needs, or what is wrong with a trained scene, and what to do."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fit3d_ns.common.command_line import read_arguments
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.third_parties import quiet_third_parties
from fit3d_ns.common.version import installed_version

if TYPE_CHECKING:
    from fit3d_ns.judgement.judge import Judgement
    from fit3d_ns.machine.finding import Finding

ALL_THERE, ALL_GOOD = "Everything that is needed is there", "Nothing is wrong with the scene"


@dataclass
class DoctorArguments:
    """Show versions, processor, GPU, programs, weights and caches, and for each thing that is wrong what to do.

    With --load-config or --export it looks at a trained scene instead: are its features as good as its photos allow,
    and which photos, poses and exposures do not fit the others. Exit code 0 if nothing is wrong, else 1.
    """

    load_config: Path | None = None
    """The config.yml of a run of a fit3d method: judge the scene as its last checkpoint left it."""
    export: Path | None = None
    """A folder that fit3d-export or fit3d-lift wrote, whose photos are still there: judge the scene in it."""
    images_root: Path | None = None
    """Where the images of --export are now, if they moved."""

    json: bool = False
    """Print it as JSON, for programs."""


def look() -> list[Finding]:
    """Everything that is looked at, in the order in which it is shown."""
    from fit3d_ns.machine.hardware import GPU, find_gpus, find_processor
    from fit3d_ns.machine.packages import find_imports, find_packages
    from fit3d_ns.machine.places import find_folders, find_weights
    from fit3d_ns.machine.programs import find_programs

    found = [*find_packages(), *find_imports(), *find_processor()]
    gpus = find_gpus()
    compiles = any(finding.group == GPU and finding.name == "nvcc" for finding in gpus)
    return [*found, *gpus, *find_programs(compiles), *find_weights(), *find_folders()]


def look_at_scene(arguments: DoctorArguments) -> Judgement:
    """The judgement of the scene that the arguments name.

    Raises:
        InputError: options that do not go together, no such scene, or one without features or photos.
    """
    if arguments.load_config is not None and arguments.export is not None:
        raise InputError("give one of --load-config (a config.yml) and --export (a folder), not both.")
    if arguments.images_root is not None and arguments.export is None:
        raise InputError("--images-root says where the images of an export are: give it with --export.")
    from fit3d_ns.judgement.judge import judge

    if arguments.export is not None:
        from fit3d_ns.judgement.scene import scene_of_export

        return judge(scene_of_export(arguments.export, arguments.images_root))
    # Cameras of runs are nerfstudio's to read; exports do not need it.
    from fit3d_ns.method.judged_run import scene_of_run

    assert arguments.load_config is not None
    return judge(scene_of_run(arguments.load_config))


def report(findings: Sequence[Finding], fine: str = ALL_THERE) -> str:
    """The findings as text, group by group, each problem under what it is about; `fine` is said if nothing is wrong."""
    lines = [f"fit3d {installed_version()} on {platform.platform()}"]
    width = max(len(finding.name) for finding in findings)
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            lines += ["", group]
        mark = "WRONG" if finding.fault else "note" if finding.problem else ""
        lines.append(f"  {finding.name:<{width}}  {finding.value}".rstrip())
        if finding.problem:
            lines.append(f"  {mark:>{width}}  {finding.problem}")
    faults = sum(finding.fault for finding in findings)
    notes = sum(bool(finding.problem) and not finding.fault for finding in findings)
    verdict = f"{faults} wrong" if faults else fine
    return "\n".join([*lines, "", f"{verdict}; {notes} note{'' if notes == 1 else 's'}."])


def as_json(findings: Sequence[Finding], judgement: Judgement | None = None) -> str:
    """The findings for programs, and what was measured of a scene."""
    listed = [{**dataclasses.asdict(finding), "fault": finding.fault} for finding in findings]
    whole = {
        "format_version": 1,
        "fit3d": installed_version(),
        "ok": not any(finding.fault for finding in findings),
        "findings": listed,
    }
    if judgement is not None:
        whole["measured"] = judgement.as_dict()
    return json.dumps(whole, indent=1)


def run(arguments: DoctorArguments) -> bool:
    """Print what was found; returns whether nothing is wrong."""
    if (arguments.load_config, arguments.export, arguments.images_root) == (None, None, None):
        findings = look()
        print(as_json(findings) if arguments.json else report(findings))
    else:
        with contextlib.redirect_stdout(sys.stderr):  # what nerfstudio says while it reads is no part of the answer
            judgement = look_at_scene(arguments)
        from fit3d_ns.judgement.findings import findings_of

        findings = findings_of(judgement)
        print(as_json(findings, judgement) if arguments.json else report(findings, ALL_GOOD))
    return not any(finding.fault for finding in findings)


def parse(words: Sequence[str] | None = None) -> DoctorArguments:
    """The arguments of the command line."""
    return read_arguments(DoctorArguments, "fit3d-doctor", words)


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-doctor`; exit code 1 if something is wrong."""
    arguments = parse()
    quiet_third_parties()
    if not run(arguments):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
