"""How soon the panel Features of nerfstudio's viewer reacts, control by control.

    python -m benchmarks.viewer RUN/config.yml [--repeats 3] [--output benchmarks/results/viewer.md]

The viewer of a trained run (as ns-viewer starts it) and a client on its websocket, as a page has, in one process: from
the message that a control was used to the first picture that comes back, which nerfstudio makes as small as it thinks
that it must, and to the one of full size, which it begins 0.2 s later if nothing moves. A page opens as soon as the
viewer is up; first reactions come in the order of the rows.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.markdown import header, row
from benchmarks.report import commit, processor
from benchmarks.soak import plain_pictures
from benchmarks.viewer_client import Picture, ViewerClient

SETTLE = 1.0
"""Seconds before each use of a control, in which nothing is rendered any more."""


@dataclass(frozen=True)
class Reaction:
    """Seconds until the first picture, and until that of full size."""

    small: float
    full: float


@dataclass
class Row:
    """A control and how soon it reacted, each time."""

    name: str
    reactions: list[Reaction]

    def cells(self) -> tuple[str, ...]:
        first, later = self.reactions[0], self.reactions[1:]
        cells = [f"{first.small:.2f}", f"{first.full:.2f}"]
        if later:
            cells += [f"{median(r.small for r in later):.2f}", f"{median(r.full for r in later):.2f}"]
        return self.name, *cells, *[""] * (4 - len(cells))


def start_viewer(config_path: Path) -> tuple[Any, Any]:
    """nerfstudio's viewer of a run, and its pipeline; the steps of `ns-viewer` without its endless loop."""
    from nerfstudio.utils import writer
    from nerfstudio.utils.eval_utils import eval_setup
    from nerfstudio.viewer.viewer import Viewer

    config, pipeline, _, step = eval_setup(config_path, test_mode="test")
    config.logging.local_writer.enable = False
    writer.setup_local_writer(config.logging, max_iter=config.max_num_iterations, banner_messages=[])
    viewer = Viewer(
        config.viewer,
        log_filename=config_path.parent / config.viewer.relative_log_filename,
        datapath=pipeline.datamanager.get_datapath(),
        pipeline=pipeline,
        train_lock=threading.Lock(),
    )
    viewer.init_scene(pipeline.datamanager.train_dataset, "completed", pipeline.datamanager.eval_dataset)
    viewer.update_scene(step=step)
    return viewer, pipeline


class Panel:
    """Uses controls and times them.

    Args:
        client: a page.
        size: of a full picture: its longer side, in pixels.
        repeats: how often each control is used.
    """

    def __init__(self, client: ViewerClient, size: int, repeats: int) -> None:
        self._client, self._size, self._repeats = client, size, repeats
        self.rows: list[Row] = []

    def is_full(self, picture: Picture) -> bool:
        return max(picture.size) >= self._size

    def react(self, action: Callable[[], object]) -> Reaction:
        before, start = self._client.pictures, time.perf_counter()
        action()
        small = self._client.next_picture(before, 300)
        full = self._client.next_picture(before, 300, self.is_full)
        return Reaction(small.when - start, full.when - start)

    def time(self, name: str, actions: Iterable[Callable[[], object]]) -> None:
        """Add a row: each action once, the first of them being the first use."""
        reactions = []
        for action in actions:
            time.sleep(SETTLE)
            reactions.append(self.react(action))
        self.rows.append(Row(name, reactions))

    def set(self, label: str, values: Sequence[object], name: str | None = None) -> None:
        """Add a row: a control set to one value after the other."""
        actions = [lambda v=value: self._client.set(label, v) for value in values]  # type: ignore[misc]
        self.time(name or label, actions[: self._repeats + 1])

    def pick(self) -> None:
        """Add a row: clicks, each after its button."""

        def announce() -> None:
            self.react(lambda: self._client.press("Similarity: pick a point"))

        reactions = []
        for number in range(self._repeats + 1):
            announce()
            time.sleep(SETTLE)
            reactions.append(self.react(lambda n=number: self._client.click(0.05 * n, 0.05)))  # type: ignore[misc]
        self.rows.append(Row("a click in the scene, its point picked", reactions))


def measure(port: int, model: Any, size: int, repeats: int) -> list[Row]:
    """Every control of the panel, in the order of the table."""
    start = time.perf_counter()
    client = ViewerClient(port)
    panel = Panel(client, size, repeats)
    small, full = client.next_picture(0, 300), client.next_picture(0, 300, panel.is_full)
    panel.rows.append(Row("the page opens", [Reaction(small.when - start, full.when - start)]))
    turns: list[Callable[[], object]] = [lambda: client.move(client.camera.turned(0.05))] * (repeats + 1)
    with plain_pictures(model):
        panel.time("nerfstudio alone (colour, depth): the camera moves", turns)
    panel.time("the camera moves", turns)
    for output in ("feature_pca", "clusters", "feature_error"):
        panel.set("Output type", [output, "rgb"] * 3, f"*Output type* {output}, and back")
    panel.pick()
    panel.set("Output type", ["similarity", "rgb"] * 3, "*Output type* similarity, and back")
    panel.set("Isolate: similarity ≥", [0.2, 0.3, 0.4, 0.5, 0.6])
    panel.set("Isolate: distance ≤", [1.0, 0.9, 0.8, 0.7, 0.6])
    panel.set("Isolate: dim the others", [True, False] * 3)
    panel.set("Hide: error >", [0.9, 0.8, 0.7, 0.6, 0.5])
    panel.set("Hide: opacity <", [0.1, 0.2, 0.3, 0.4, 0.5])
    panel.set("Clusters: k", [5, 6, 7, 9, 10])
    panel.time("Refit colours", [lambda: client.press("Refit colours")] * (repeats + 1))
    panel.set("Features", ["nearest photo", "lifted"] * 3)
    panel.time("Similarity: clear", [lambda: client.press("Similarity: clear")])
    start = time.perf_counter()
    client.press("Isolate: export as .ply")
    client.wait_until(lambda: client.says("selection-"), "the path of the file", 300)
    waited = time.perf_counter() - start
    panel.rows.append(Row("Isolate: export as .ply, until its path is said", [Reaction(waited, waited)]))
    client.close()
    return panel.rows


def one_rendering(pipeline: Any, width: int, repeats: int) -> float:
    """Seconds for all outputs of one picture of full size, and nothing else: median."""
    import torch

    from benchmarks.timing import seconds

    camera = pipeline.datamanager.train_dataset.cameras[:1].to(pipeline.model.device)
    camera.rescale_output_resolution(width / float(camera.width.max()))
    with torch.no_grad():
        timings = [seconds(lambda: pipeline.model.get_outputs_for_camera(camera)) for _ in range(repeats + 1)]
    return median(timings[1:])


def page(rows: Sequence[Row], about: str, floor: float) -> str:
    """Markdown."""
    lines = ["# How soon the viewer's panel reacts", "", f"Made by `python -m benchmarks.viewer`, commit {commit()}."]
    lines += [about, ""]
    lines += [f"One rendering of full size, all outputs, no viewer: {1e3 * floor:.0f} ms.", ""]
    titles = ("", "first: small picture, s", "full size, s", "later: small picture, s", "full size, s")
    lines += [*header(*titles), *(row(*each.cells()) for each in rows)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.viewer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="config.yml of a trained run")
    parser.add_argument("--repeats", type=int, default=3, choices=range(1, 5))
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args(arguments)
    viewer, pipeline = start_viewer(asked.run)
    size = int(viewer.control_panel.max_res)
    rows = measure(viewer.viser_server.get_port(), pipeline.model, size, asked.repeats)
    floor = one_rendering(pipeline, size, 2 * asked.repeats)
    load = f"load {os.getloadavg()[0]:.1f} at the end"
    about = (
        f"{pipeline.model.num_points:,} Gaussians, {size} pixels, {processor()}, {os.cpu_count()} processors, {load}. "
        f"Later: medians of {asked.repeats}."
    )
    text = page(rows, about, floor)
    print(text)
    if asked.output is not None:
        asked.output.write_text(text)


if __name__ == "__main__":
    main()
