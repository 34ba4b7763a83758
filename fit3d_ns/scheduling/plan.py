"""What is done to every scene, and what came of it: files of a work folder that processes and machines share.

WORK/plan.json                 what is to be done, for all scenes
WORK/scenes/NAME/status.json   where a scene stands, and in the end what came of it
WORK/scenes/NAME/log.txt       what its commands said
WORK/scenes/NAME/metrics.json  what ns-eval measured
WORK/outputs/NAME/…            what ns-train leaves
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json

State = Literal["waiting", "training", "measuring", "exporting", "done", "failed"]
ENDED: tuple[State, ...] = ("done", "failed")
MEASURED = ("psnr", "ssim", "feature_cosine")
"""By ns-eval, on held-out views."""
PLAN_FILE, STATUS_FILE, LOG_FILE, METRICS_FILE = "plan.json", "status.json", "log.txt", "metrics.json"


@dataclass(frozen=True)
class Plan:
    """The same for all scenes; paths are absolute."""

    captures: dict[str, str]
    """By the scene's name."""
    output_dir: str
    work_dir: str
    method: str
    train_options: tuple[str, ...] = ()
    retry_options: tuple[str, ...] = ()
    """Added where a scene failed, for a second try that takes less memory; empty: none."""
    export_options: tuple[str, ...] = ()
    dataparser: tuple[str, ...] = ()
    """A dataparser of nerfstudio's with its options, which come last; empty: nerfstudio's own format."""

    def folder(self, scene: str) -> Path:
        """Of a scene, in the work folder."""
        return Path(self.work_dir) / "scenes" / scene

    def export(self, scene: str) -> Path:
        """Where its export goes."""
        return Path(self.output_dir) / scene

    def save(self) -> Path:
        """Write it into its work folder; returns the file."""
        path = Path(self.work_dir) / PLAN_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, dataclasses.asdict(self))
        return path

    @staticmethod
    def load(path: Path) -> Plan:
        """Raises: InputError: it cannot be read."""
        found = _read(path)
        options = {
            name: tuple(found[name]) for name in ("train_options", "retry_options", "export_options", "dataparser")
        }
        return Plan(**{**found, **options})


@dataclass(frozen=True)
class Status:
    """Where a scene stands."""

    scene: str
    state: State = "waiting"
    attempt: int = 1
    seconds: float = 0.0
    """Of work on it so far, in this start."""
    figures: dict[str, float] = field(default_factory=dict)
    """psnr, ssim, feature_cosine of held-out views; gaussians."""
    fault: str = ""
    """Why it failed, in a sentence."""
    found: bool = False
    """Whether its export was there before this start."""

    def save(self, plan: Plan) -> None:
        folder = plan.folder(self.scene)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / STATUS_FILE, dataclasses.asdict(self))

    @staticmethod
    def load(plan: Plan, scene: str) -> Status:
        """Waiting, if nothing was written yet."""
        path = plan.folder(scene) / STATUS_FILE
        return Status(**_read(path)) if path.is_file() else Status(scene)


def _write(path: Path, values: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it, and start again.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is no table: delete it, and start again.")
    return found
