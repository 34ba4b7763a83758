"""The first picture, clicks, and new pictures: what nerfstudio's viewer does besides its panel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
import viser.transforms as vtf
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor
from viser import ClientHandle

from fit3d_ns.method.viewer.clients import look_after
from fit3d_ns.scene.views import PinholeView

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

_PROBE_FOCAL = 1000.0
"""Focal length, in pixels, of the camera that looks along a click: about the footprint of one screen pixel."""


@dataclass(frozen=True, eq=False)
class StartingView:
    """Where a page begins."""

    camera_to_world: Tensor
    """[3, 4], nerfstudio's (OpenGL axes)."""
    vertical_fov: float
    """In radians."""


class FeatureControl(ViewerControl):
    """The viewer behind the panel; without one (`viewer` is missing) nothing happens.

    Args:
        start: gives the view that a new page begins with; None: nerfstudio's own.
        connected: called when a page has been opened.
        rehearse: called on a thread of its own when there is a viewer, but no training (which does it all anyway).
    """

    def __init__(
        self,
        start: Callable[[], StartingView | None],
        connected: Callable[[], None],
        rehearse: Callable[[], None] = lambda: None,
    ) -> None:
        self._start = start
        self._connected = connected
        self._rehearse = rehearse

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        look_after(viewer, self._place)
        if viewer.trainer is None:
            threading.Thread(target=self._rehearse, daemon=True).start()

    def _place(self, client: ClientHandle) -> None:
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

        view = self._start()
        if view is not None:
            pose = view.camera_to_world.double().cpu().numpy()
            rotation = vtf.SO3.from_matrix(pose[:, :3]) @ vtf.SO3.from_x_radians(np.pi)
            with client.atomic():
                client.camera.position = pose[:, 3] * VISER_NERFSTUDIO_SCALE_RATIO
                client.camera.wxyz = rotation.wxyz
                client.camera.fov = view.vertical_fov
        self._connected()

    @property
    def output(self) -> str:
        """The output that is shown; "" without a viewer."""
        viewer = getattr(self, "viewer", None)
        # Renderings begin while the viewer is still being built.
        panel = getattr(viewer, "control_panel", None)
        return "" if panel is None else str(panel.output_render)

    @property
    def run_folder(self) -> Path | None:
        """Where the run's files are."""
        viewer = getattr(self, "viewer", None)
        return None if viewer is None else viewer.log_filename.parent

    @property
    def trains(self) -> bool:
        """Whether training steps are under way."""
        trainer = getattr(getattr(self, "viewer", None), "trainer", None)
        return trainer is not None and trainer.training_state == "training"

    def lock(self) -> AbstractContextManager[object]:
        """nerfstudio's train lock, which cannot be taken twice."""
        lock = getattr(getattr(self, "viewer", None), "train_lock", None)
        return nullcontext() if lock is None else lock

    def rerender(self) -> None:
        """Have new pictures made."""
        viewer = getattr(self, "viewer", None)
        if viewer is not None:
            viewer._trigger_rerender()


def pixel_along(origin: Tensor, direction: Tensor) -> PinholeView:
    """A camera of one pixel at `origin` [3] that looks along `direction` [3]."""
    K = torch.tensor([[_PROBE_FOCAL, 0, 0.5], [0, _PROBE_FOCAL, 0.5], [0, 0, 1]])
    return PinholeView(look_along(origin, direction), K, 1, 1, grid=(1, 1))


def look_along(origin: Tensor, direction: Tensor) -> Tensor:
    """World-to-camera [4, 4] (OpenCV axes) of a camera at `origin` [3] that looks along `direction` [3].

    The roll is arbitrary.
    """
    forward = F.normalize(direction, dim=0)
    helper = torch.eye(3)[int(forward.abs().argmin())]
    right = F.normalize(torch.linalg.cross(helper, forward), dim=0)
    down = torch.linalg.cross(forward, right)
    rotation = torch.stack([right, down, forward])
    viewmat = torch.eye(4)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ origin
    return viewmat
