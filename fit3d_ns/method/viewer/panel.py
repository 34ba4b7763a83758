"""The controls of the features in nerfstudio's viewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from nerfstudio.viewer.viewer_elements import (
    ViewerButton,
    ViewerCheckbox,
    ViewerDropdown,
    ViewerElement,
    ViewerSlider,
    ViewerText,
)
from torch import nn
from viser import GuiMarkdownHandle, ViserServer

from fit3d_ns.method.viewer.legend import COMPARED, LIFTED, PHOTO, legend
from fit3d_ns.method.viewer.pictures import MOST_CLUSTERS
from fit3d_ns.method.viewer.selection import NO_DISTANCE_LIMIT, NO_ERROR_LIMIT, Limits


class Actions(Protocol):
    """What the buttons set off."""

    def refit(self) -> None: ...

    def start_picking(self) -> None: ...

    def clear_query(self) -> None: ...

    def choose_kind(self) -> None: ...

    def start_export(self) -> None: ...

    def start_comparison(self) -> None: ...


class Words(ViewerElement[str]):
    """A few lines of markdown in the viewer's panel."""

    def __init__(self, name: str, words: str = "") -> None:
        super().__init__(name)
        self.words = words
        self._handle: GuiMarkdownHandle | None = None

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self._handle = viser_server.gui.add_markdown(self.words)

    def install(self, viser_server: ViserServer) -> None:
        self._create_gui_handle(viser_server)

    def say(self, words: str) -> None:
        """Show other words."""
        if words == self.words:
            return
        self.words = words
        if self._handle is not None:
            self._handle.content = words


class FeaturePanel(nn.Module):
    """The controls, in order, and what they are set to; without a viewer they stay at their defaults.

    nerfstudio walks the public attributes of the pipeline's modules, takes those that are `ViewerElement`s, sorted by
    name, and puts them into a folder that is called as the attribute that leads here. It takes the train lock for
    their hooks, and renders again after them.

    Args:
        actions: what the buttons set off.
        compare_backbone: what stands in the text field.
    """

    def __init__(self, actions: Actions, compare_backbone: str | None) -> None:
        super().__init__()
        self._legend = Words("Legend", legend("", LIFTED))
        self._status = Words("Status")
        self._kind = ViewerDropdown(
            "Features",
            LIFTED,
            [LIFTED, PHOTO],
            cb_hook=lambda _: actions.choose_kind(),
            hint="What outputs are pictures of",
        )
        self._backbone = ViewerText("Backbone", compare_backbone or "", hint="A folder that fit3d-finetune wrote")
        self._clusters = ViewerSlider("Clusters: k", 8, 2, MOST_CLUSTERS, 1)
        self._similarity = ViewerSlider("Isolate: similarity ≥", -1.0, -1.0, 1.0, 0.01)
        self._distance = ViewerSlider("Isolate: distance ≤", NO_DISTANCE_LIMIT, 0.0, NO_DISTANCE_LIMIT, 0.01)
        self._dims = ViewerCheckbox("Isolate: dim the others", False, hint="Show the others faintly")
        self._error = ViewerSlider("Hide: error >", NO_ERROR_LIMIT, 0.0, NO_ERROR_LIMIT, 0.01)
        self._opacity = ViewerSlider("Hide: opacity <", 0.0, 0.0, 1.0, 0.01)
        elements: list[ViewerElement[Any]] = [
            self._legend,
            self._kind,
            self._backbone,
            _button("Compare: lift this backbone", actions.start_comparison),
            self._clusters,
            _button("Refit colours", actions.refit),
            _button("Similarity: pick a point", actions.start_picking),
            _button("Similarity: clear", actions.clear_query),
            self._similarity,
            self._distance,
            self._dims,
            _button("Isolate: export as .ply", actions.start_export),
            self._error,
            self._opacity,
            self._status,
        ]
        for index, element in enumerate(elements):
            setattr(self, f"element_{index:02d}", element)

    def limits(self) -> Limits:
        """Which Gaussians are wanted."""
        return Limits(
            float(self._error.value),
            float(self._opacity.value),
            float(self._similarity.value),
            float(self._distance.value),
        )

    def set_limits(self, limits: Limits) -> None:
        """Move the sliders."""
        self._error.value, self._opacity.value = limits.error, limits.opacity
        self._similarity.value, self._distance.value = limits.similarity, limits.distance

    @property
    def dims(self) -> bool:
        """Whether Gaussians outside the clicked thing are dimmed, and not hidden."""
        return self._dims.value

    @dims.setter
    def dims(self, value: bool) -> None:
        self._dims.value = value

    @property
    def kind(self) -> str:
        """`LIFTED`, `COMPARED` or `PHOTO`: the features that are shown."""
        return self._kind.value

    @kind.setter
    def kind(self, value: str) -> None:
        self._kind.value = value

    @property
    def clusters(self) -> int:
        """k of k-means."""
        return int(self._clusters.value)

    @clusters.setter
    def clusters(self, value: int) -> None:
        self._clusters.value = value

    @property
    def backbone(self) -> str:
        """What stands in the text field."""
        return self._backbone.value.strip()

    def offer_comparison(self) -> None:
        """Add `COMPARED` to the kinds of features, and choose it."""
        if COMPARED not in self._kind.options:
            self._kind.set_options([LIFTED, COMPARED, PHOTO])
        self._kind.value = COMPARED

    def explain(self, output: str, kind: str) -> None:
        """Say what the colours of an output mean, where it is of this kind of features."""
        self._legend.say(legend(output, kind))

    def say(self, words: str) -> None:
        """Show a message below the controls."""
        self._status.say(words)

    @property
    def message(self) -> str:
        """The message that is shown."""
        return self._status.words


def _button(name: str, action: Callable[[], None]) -> ViewerButton:
    return ViewerButton(name, cb_hook=lambda _: action())
