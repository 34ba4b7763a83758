"""What lies in a data set and what it can be probed for, found by reading some of it."""

from __future__ import annotations

import inspect
from pathlib import Path

from rich.table import Table

from fit3d_finetune.probing.data.datasets import READERS
from fit3d_finetune.probing.data.labelled_images import LabelledImages
from fit3d_finetune.probing.data.tasks import NEEDS
from fit3d_ns.common.errors import InputError

READ = 5
"""Images whose labels and depth are decoded, spread over the data set."""


def kinds() -> dict[str, str]:
    """By name, what its reader says of itself."""
    return {name: (inspect.getdoc(reader) or "").split("\n\n")[0] for name, reader in READERS.items()}


def missing_files(data: LabelledImages) -> dict[str, list[Path]]:
    """By what they are, images first: those that the data set names and that are not there."""
    missing: dict[str, list[Path]] = {"images": [], "labels": [], "depth": []}
    for image in data.images:
        for what, path in image.files.items():
            if not path.is_file():
                missing[what].append(path)
    return missing


def check(kind: str, root: Path) -> Table:
    """What is there; some images are read.

    Raises:
        InputError: no such kind, files are missing, or what is read is not fit.
    """
    if kind not in READERS:
        raise InputError(f"there is no kind of data set “{kind}”: choose from {', '.join(sorted(READERS))}.")
    data = READERS[kind](root)
    if not data.images:
        raise InputError(f"{kind}:{root} holds no images; {kind} is: {kinds()[kind]}")
    for what, paths in missing_files(data).items():
        if paths:
            raise InputError(
                f"{kind}:{root}: {len(paths)} files of {what} for {len(data.images)} images are missing, the first is "
                f"{paths[0]}: add them, or take their images out."
            )
    step = max(1, len(data.images) // READ)
    for image in data.images[::step]:
        image.image()
        if data.has_labels:
            image.labels(len(data.classes))
        if data.has_depth:
            image.depth()
        if data.has_geometry:
            image.consistency_view("")
    return _table(data)


def _table(data: LabelledImages) -> Table:
    shown = Table(title=data.name, show_header=False)
    sizes = {image.size() for image in data.images[:: max(1, len(data.images) // 100)]}
    heights, widths = zip(*sizes, strict=True)
    shown.add_row("images", f"{len(data.images)}")
    shown.add_row("width, height", f"{_range(widths)}, {_range(heights)}")
    shown.add_row("scenes", f"{len({image.scene for image in data.images})}")
    shown.add_row("classes", f"{len(data.classes)}" if data.has_labels else "no labels")
    limit = "" if data.max_depth is None else f", scored up to {data.max_depth:g} m"
    crops = "" if data.benchmark == "none" else f", crops of {data.benchmark}"
    shown.add_row("depth", f"yes{limit}{crops}" if data.has_depth else "none")
    shown.add_row("undistorted cameras", "yes" if data.has_geometry else "none")
    shown.add_row("can be probed for", ", ".join(task for task, needs in NEEDS.items() if needs.met_by(data)) or "–")
    return shown


def _range(values: tuple[int, ...]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"
