"""fit3d-doctor: is everything here that fit3d needs, and if not, what to do."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fit3d_ns.common.command_line import read_arguments
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.third_parties import quiet_third_parties
from fit3d_ns.common.version import installed_version

if TYPE_CHECKING:
    from fit3d_ns.machine.finding import Finding


@dataclass
class DoctorArguments:
    """Show versions, processor, GPU, programs, weights and caches, and for each thing that is wrong what to do.

    Exit code 0 if everything is there that is needed, else 1.
    """

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


def report(findings: Sequence[Finding]) -> str:
    """The findings as text, group by group, each problem under what it is about."""
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
    verdict = f"{faults} wrong" if faults else "Everything that is needed is there"
    return "\n".join([*lines, "", f"{verdict}; {notes} note{'' if notes == 1 else 's'}."])


def as_json(findings: Sequence[Finding]) -> str:
    """The findings for programs."""
    listed = [{**dataclasses.asdict(finding), "fault": finding.fault} for finding in findings]
    whole = {
        "format_version": 1,
        "fit3d": installed_version(),
        "ok": not any(finding.fault for finding in findings),
        "findings": listed,
    }
    return json.dumps(whole, indent=1)


def run(arguments: DoctorArguments) -> bool:
    """Print what was found; returns whether everything that is needed is there."""
    findings = look()
    print(as_json(findings) if arguments.json else report(findings))
    return not any(finding.fault for finding in findings)


def parse(words: Sequence[str] | None = None) -> DoctorArguments:
    """The arguments of the command line."""
    return read_arguments(DoctorArguments, "fit3d-doctor", words)


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-doctor`; exit code 1 if something that is needed is wrong."""
    arguments = parse()
    quiet_third_parties()
    if not run(arguments):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
