"""What stands where on the page, and which event changes what; what is computed is computed elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fit3d_finetune.page.features import Backbones, PhotoFeatures, see
from fit3d_finetune.page.photos import Example, Photo, read_photo
from fit3d_finetune.page.pictures import (
    FEWEST_CLUSTERS,
    MOST_CLUSTERS,
    cluster_pictures,
    colour_pictures,
    depth_picture,
    enlarge,
    mark,
    patch_at,
    similarity_pictures,
)
from fit3d_finetune.report.pictures import colour_normals
from fit3d_ns.common.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
Updates = dict[Any, Any]

TITLE = "Features before and after fine-tuning"
NAMES = ("original", "fine-tuned")
CLUSTERS = 6
KEPT_SECONDS = 3600
"""How long pictures and features outlive their last use."""
_INVITATION = "Upload a photo, or take an example."
CSS = "footer {display: none !important}"


@dataclass(frozen=True, eq=False)
class Shown:
    """What one open page shows."""

    photo: Photo
    features: PhotoFeatures
    seconds: float
    """That both backbones took."""


@dataclass(frozen=True)
class PageOptions:
    """What the page needs to know besides the backbones."""

    title: str
    """Of the fine-tuned folder."""
    max_size: int
    """Longest side of photos in pixels."""
    examples: Sequence[Example] = ()


class Page:
    """The page's components, and what happens on them.

    Args:
        gradio: the package.
        backbones: of the fine-tuned folder.
        options: of the command.
    """

    def __init__(self, gradio: Any, backbones: Backbones, options: PageOptions) -> None:
        self._gradio, self._backbones, self._options = gradio, backbones, options
        self.blocks = gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, KEPT_SECONDS))
        with self.blocks:
            self._arrange()
            self._connect()

    # ---- what stands where

    def _arrange(self) -> None:
        gradio = self._gradio
        description = self._backbones.assembly.original.description
        gradio.Markdown(f"# {TITLE}\nOriginal: {_plain(description)}. Fine-tuned: {_plain(self._options.title)}.")
        self._shown = gradio.State(None, time_to_live=KEPT_SECONDS)
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                self._arrange_input()
            with gradio.Column(scale=2, min_width=480):
                with gradio.Tabs(selected="colours") as self._tabs:
                    self._arrange_tabs()
                if self._backbones.geometry is None:
                    gradio.Markdown(f"No depth and normals: {_plain(self._backbones.no_geometry)}", elem_id="reason")

    def _arrange_input(self) -> None:
        gradio = self._gradio
        self._upload = gradio.File(
            label="Upload a photo", file_types=["image"], height=120, elem_id="upload", interactive=True
        )
        self._status = gradio.Markdown(_INVITATION, elem_id="status")
        self._photo = self._picture("photo: click on something", "photo")
        self._gallery = None
        if self._options.examples:
            self._gallery = gradio.Gallery(
                [example.thumbnail for example in self._options.examples],
                label="Or take one of these",
                columns=3,
                height="auto",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="examples",
            )

    def _arrange_tabs(self) -> None:
        gradio = self._gradio
        with gradio.Tab("Colours (PCA)", id="colours"):
            gradio.Markdown("The three directions in which the features of both vary most, as red, green, blue.")
            self._colours = self._pair("colours")
        with gradio.Tab("Clusters (k-means)", id="clusters"):
            gradio.Markdown("Patches of both sorted together: the same colour is the same cluster.")
            self._count = gradio.Slider(
                FEWEST_CLUSTERS, MOST_CLUSTERS, CLUSTERS, step=1, label="clusters", elem_id="count"
            )
            self._clusters = self._pair("clusters")
        with gradio.Tab("Similarity", id="similarity"):
            self._scale = gradio.Markdown("Click on the photo or on any picture.", elem_id="scale")
            self._similarity = self._pair("similarity")
        self._depth = self._normals = self._ratio = None
        if self._backbones.geometry is not None:
            with gradio.Tab("Depth and normals", id="geometry"):
                self._ratio = gradio.Markdown("What the fine-tuned backbone's heads read from its features.")
                with gradio.Row():
                    self._depth = self._picture("depth", "depth")
                    self._normals = self._picture("normals", "normals")

    def _picture(self, label: str, name: str) -> Any:
        # PNG: colours arrive as they were computed.
        return self._gradio.Image(
            label=label, format="png", interactive=False, buttons=["download", "fullscreen"], elem_id=name
        )

    def _pair(self, name: str) -> tuple[Any, Any]:
        with self._gradio.Row():
            original, finetuned = (self._picture(label, f"{name}-{label}") for label in NAMES)
        return original, finetuned

    @property
    def _pictures(self) -> list[Any]:
        drawn = [self._photo, *self._colours, *self._clusters, *self._similarity, self._depth, self._normals]
        return [picture for picture in drawn if picture is not None]

    # ---- which event changes what

    def _connect(self) -> None:
        changed = [self._shown, self._upload, self._status, self._scale, *self._pictures]
        changed += [] if self._ratio is None else [self._ratio]
        # One photo at a time, whoever asks: two would only share the same cores.
        computing = {"api_visibility": "private", "concurrency_id": "photos", "concurrency_limit": 1}
        self._upload.upload(self.take_upload, [self._upload, self._count], changed, **computing)
        if self._gallery is not None:
            self._gallery.select(self._with_event(self.take_example), [self._count], changed, **computing)
        self._count.change(
            self.recount,
            [self._shown, self._count],
            list(self._clusters),
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )
        for picture in self._pictures:
            picture.select(
                self._with_event(self.compare),
                [self._shown],
                [self._photo, self._scale, *self._similarity, self._tabs],
                show_progress="hidden",
                api_visibility="private",
            )

    def _with_event(self, handler: Callable[[Any, Any], Updates]) -> Callable[[Any, Any], Updates]:
        """A handler that is told, besides its one input, where was clicked."""

        def handle(value: Any, event: Any) -> Updates:
            return handler(value, event.index)

        # Gradio knows what to hand over by the type, which only exists where Gradio does.
        handle.__annotations__ = {"event": self._gradio.SelectData}
        return handle

    # ---- what happens

    def take_upload(self, path: str | None, count: int) -> Updates:
        """Show an uploaded photo; its file is deleted as soon as it is read."""
        if path is None:
            return {self._status: _INVITATION}
        try:
            return self._take(Path(path), count)
        finally:
            Path(path).unlink(missing_ok=True)

    def take_example(self, count: int, index: int) -> Updates:
        """Show one of the examples."""
        return self._take(self._options.examples[int(index)].path, count)

    def recount(self, shown: Shown | None, count: int) -> Updates:
        """Cluster anew."""
        if shown is None:
            return self._nothing()
        return self._large(self._clusters, cluster_pictures(shown.features, count), shown)

    def compare(self, shown: Shown | None, place: Sequence[float]) -> Updates:
        """Compare all patches with the one at a pixel (x, y) of the photo."""
        if shown is None:
            return self._nothing()
        size, grid = (shown.photo.image.shape[0], shown.photo.image.shape[1]), shown.features.grid
        at = patch_at(place[0], place[1], size, grid)
        return {**self._compared(shown, at), self._tabs: self._gradio.Tabs(selected="similarity")}

    def _nothing(self) -> Updates:
        nothing: Updates = self._gradio.skip()
        return nothing

    def _take(self, path: Path, count: int) -> Updates:
        start = time.perf_counter()
        try:
            photo = read_photo(path, self._options.max_size, self._backbones.patch_size)
        except InputError as error:
            nothing = dict.fromkeys([*self._pictures, self._shown, self._upload])
            return {**nothing, self._status: f"**{_plain(str(error))}**"}
        read = time.perf_counter()
        features = see(self._backbones, photo.image)
        shown = Shown(photo, features, time.perf_counter() - read)
        updates: Updates = {self._shown: shown, self._upload: None}
        updates |= self._large(self._colours, colour_pictures(features), shown)
        updates |= self._large(self._clusters, cluster_pictures(features, count), shown)
        updates |= self._compared(shown, (features.grid[0] // 2, features.grid[1] // 2))
        if features.depth is not None and features.normals is not None:
            depth = depth_picture(features.depth)
            pictures = depth.picture, colour_normals(features.normals)
            updates |= self._large((self._depth, self._normals), pictures, shown)
            updates[self._ratio] = (
                f"Depth: bright is {depth.ratio:.1f} times as far as dark (how far that is, a photo does not say). "
                "Normals: red to the right, green upwards, blue towards the camera."
            )
        return {**updates, self._status: _described(shown, time.perf_counter() - start)}

    def _compared(self, shown: Shown, at: tuple[int, int]) -> Updates:
        similarity = similarity_pictures(shown.features, *at)
        updates = self._large(self._similarity, similarity.pictures, shown)
        updates = {part: mark(picture, *at, shown.features.grid) for part, picture in updates.items()}
        low = f"{similarity.lowest:.2f}".replace("-", "−")
        return {
            **updates,
            self._photo: mark(shown.photo.image, *at, shown.features.grid),
            self._scale: f"Cosine with the marked patch, on one scale: from {low} (dark blue) to 1 (dark red).",
        }

    def _large(self, parts: tuple[Any, Any], pictures: tuple[Array, Array], shown: Shown) -> Updates:
        """Both pictures in the photo's size, each for its part of the page."""
        size = shown.photo.image.shape[0], shown.photo.image.shape[1]
        return {part: enlarge(picture, size) for part, picture in zip(parts, pictures, strict=True)}


def _described(shown: Shown, seconds: float) -> str:
    (height, width), (rows, columns) = shown.photo.image.shape[:2], shown.features.grid
    full_width, full_height = shown.photo.file_size
    shrunk = "" if (full_width, full_height) == (width, height) else f", shrunk to {width} × {height}"
    return (
        f"{_plain(shown.photo.name)}: {full_width} × {full_height} pixels{shrunk}, {columns} × {rows} patches. Both "
        f"backbones took {shown.seconds:.1f} s, with all pictures {seconds:.1f} s."
    )


def _plain(text: str) -> str:
    """Text without what Markdown or HTML would make something else of."""
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]()#+-.!|~>$" else sign for sign in text.replace("<", "‹"))
