"""The model's outputs for free cameras, and what the controls of nerfstudio's viewer do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from nerfstudio.viewer.viewer_elements import ViewerClick
from torch import Tensor, nn

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.position import ViewDependence
from fit3d_ns.method.viewer.carried import CarriedFeatures
from fit3d_ns.method.viewer.control import FeatureControl, StartingView, pixel_along
from fit3d_ns.method.viewer.export import write_selection
from fit3d_ns.method.viewer.legend import PHOTO
from fit3d_ns.method.viewer.panel import FeaturePanel
from fit3d_ns.method.viewer.photos import TrainingPhotos
from fit3d_ns.method.viewer.shown import FeatureModel, ShownFeatures
from fit3d_ns.scene.render import rasterize
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView

_EXPORT = "fit3d-export-selection"


class FeatureViewer(nn.Module):
    """Pictures of the features, and the controls that go with them.

    A module (without parameters), because nerfstudio's viewer finds its elements by walking the public attributes of
    the pipeline's modules. It holds its model weakly, so that the walk does not go in circles.

    nerfstudio runs the hooks of controls on a thread of the viewer, holding its train lock (which cannot be taken
    twice), and renders again after them. It does neither for a click in the scene. What takes long is done on a
    thread of ours, without the lock.

    Args:
        model: the model whose Gaussians are shown.
        compare_backbone: another backbone, whose features are lifted when a page is opened.
        feature_dim: channels that they are lifted to.
        view_dependence: what is solved for beside them.
    """

    def __init__(
        self,
        model: FeatureModel,
        compare_backbone: str | None = None,
        feature_dim: int = 64,
        view_dependence: ViewDependence = "position",
    ) -> None:
        super().__init__()
        self._feature_dim, self._view_dependence = feature_dim, view_dependence
        self._wants_comparison = compare_backbone is not None
        self._photos: TrainingPhotos | None = None
        self._work: threading.Thread | None = None
        self.panel = FeaturePanel(self, compare_backbone)
        self.control = FeatureControl(self._start, self._connected, self.rehearse)
        self._shown = ShownFeatures(model, self.panel)

    def use_photos(self, photos: TrainingPhotos) -> None:
        """Begin where these were taken, show their maps, and lift other backbones from them."""
        self._photos = photos

    def _start(self) -> StartingView | None:
        return None if self._photos is None else self._photos.start()

    def _connected(self) -> None:
        if self._wants_comparison and not self.control.trains:
            self._wants_comparison = False
            self.start_comparison()

    def rehearse(self) -> None:
        """Make the first picture and the first click as quick as later ones."""
        ahead = torch.tensor([0.0, 0.0, 1.0])
        with self.control.lock():
            self._shown.rehearse(pixel_along(torch.zeros(3), ahead))

    # ---- pictures

    def prepared(self, gaussians: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `ShownFeatures.prepared`."""
        return self._shown.prepared(gaussians)

    @torch.no_grad()
    def outputs(self, splats: Splats, channels: Tensor, view: PinholeView) -> dict[str, Tensor]:
        """Pictures of the features from one camera, see `Pictures.of_blend`.

        Args:
            splats: the Gaussians that are shown.
            channels: what is blended, the entry `SHOWN_CHANNELS` of `prepared`.
            view: the camera.
        """
        (kind, pictures), photos = self._shown.begun(), self._photos
        image, _, _ = rasterize(splats, channels, view)
        outputs = pictures.of_blend(image[0])
        if self.panel.kind == PHOTO and photos is not None and photos.are_read:
            values = photos.nearest_map(view.world_to_camera, self._shown.model.position_term)
            outputs |= pictures.of_map(values, view.height, view.width)
            kind = PHOTO
        self.panel.explain(self.control.output, kind)
        return outputs

    def outputs_of_nothing(self, empty: Tensor) -> dict[str, Tensor]:
        """The same where no Gaussian is shown; empty: zeros [H, W, 1]."""
        return self._shown.begun()[1].of_nothing(empty)

    def everything_shown(self) -> AbstractContextManager[None]:
        """Hide nothing for a while: evaluation is of all Gaussians, whatever somebody looks at."""
        return self._shown.everything()

    # ---- hooks of the controls

    @torch.no_grad()
    def refit(self) -> None:
        """Fit the colours of `feature_pca` and the clusters to the Gaussians' own features."""
        self._shown.refit()

    def start_picking(self) -> None:
        """Wait for one click in the scene, and `pick` there."""

        def picked(click: ViewerClick) -> None:
            self.control.unregister_pointer_cb()
            self.pick(torch.tensor(click.origin), torch.tensor(click.direction))

        self.control.register_pointer_cb("click", picked)
        self._say("Click a point in the scene, then choose the output *similarity*.")

    def pick(self, origin: Tensor, direction: Tensor) -> None:
        """Take the point seen along a ray as the query of `similarity` and the thing to isolate, and render again.

        Args:
            origin: [3] in scene units.
            direction: [3], any length.
        """
        with self.control.lock():
            point = self._shown.pick(pixel_along(origin.float(), direction.float())).point
        if point is None:
            self._say("Hardly anything is seen there: pick another point to isolate by distance.")
        else:
            self._say(f"Picked ({', '.join(f'{value:.2f}' for value in point.tolist())}).")
        self.control.rerender()

    def clear_query(self) -> None:
        """Forget the picked point: `similarity` disappears, and nothing is isolated."""
        self._shown.forget_pick()
        self._say("")

    def choose_kind(self) -> None:
        """Read the photos' maps if they are to be shown; other kinds are there already."""
        photos = self._photos
        if self.panel.kind == PHOTO and photos is not None and not photos.are_read:
            self._say("Reading the features of the training photos …")
            self._in_background(self._read_photos)

    def start_export(self) -> None:
        """Write the shown Gaussians into the run's folder."""
        folder, chosen = self.control.run_folder, self.selection()
        if folder is None or len(chosen) == 0:
            self._say("No Gaussian is shown: nothing was exported.")
            return
        self._in_background(lambda: self.export(chosen, folder), _EXPORT)

    def start_comparison(self) -> None:
        """Lift the features of the backbone that the text field names."""
        weights = self.panel.backbone
        if not weights:
            self._say("Type the folder of a fine-tuned backbone under *Backbone* first.")
        elif self.control.trains:
            self._say("Pause the training first: features are lifted into the Gaussians as they are.")
        else:
            self._in_background(lambda: self.compare(weights))

    # ---- what takes long

    def selection(self) -> Splats:
        """The Gaussians that no control hides or dims, in memory of their own."""
        return self._shown.selection()

    def export(self, chosen: Splats, folder: Path) -> Path:
        """Write Gaussians as a standard 3DGS file of a free name, and say where.

        Raises:
            InputError: the folder cannot be written.
        """
        path = write_selection(chosen, folder)
        self._say(f"{len(chosen)} Gaussians: `{path}`")
        return path

    @torch.no_grad()
    def compare(self, weights: str) -> None:
        """Lift the features of another backbone into the Gaussians as they are, and show them.

        Raises:
            InputError: no such backbone, or the Gaussians have become others in the meantime.
        """
        photos = self._photos
        if photos is None:
            raise InputError("There are no training photos to lift features from.")
        self._say(f"Lifting the features of `{weights}` …")
        with self.control.lock():
            into, splats = self._shown.model.gauss_params["means"], self._shown.model.splats().copied()
        lifted = photos.lift(splats, weights, self._feature_dim, self._view_dependence)
        features = CarriedFeatures.of(lifted, splats.opacities)
        with self.control.lock():
            if into is not self._shown.model.gauss_params["means"]:
                raise InputError("The Gaussians have become others: pause the training, and lift again.")
            self._shown.set_compared(features)
        self.panel.offer_comparison()
        self._say(f"`{weights}`: cosine {lifted.cosine:.3f} to its maps of the training photos.")
        self.control.rerender()

    def _read_photos(self) -> None:
        assert self._photos is not None
        self._photos.read()
        self._say("")
        self.control.rerender()

    def _in_background(self, work: Callable[[], object], name: str | None = None) -> None:
        """Do it on a thread of its own, one at a time; bad input is said in the panel."""
        if self._work is not None and self._work.is_alive():
            self._say("Something else is under way: try again when it is done.")
            return

        def guarded() -> None:
            try:
                work()
            except InputError as error:
                self._say(str(error))
            except Exception as error:
                logger.exception("Viewer: what was begun has failed")
                self._say(f"It failed, see the terminal: {error}")

        self._work = threading.Thread(target=guarded, name=name, daemon=True)
        self._work.start()

    def wait(self) -> None:
        """Until what was started is done."""
        if self._work is not None:
            self._work.join()

    def finish_export(self) -> None:
        """Wait for a file that is being written, which would be lost with the process."""
        if self._work is not None and self._work.name == _EXPORT:
            self._work.join()

    def _say(self, words: str) -> None:
        self.panel.say(words)
        if words:
            logger.info("Viewer: %s", words.replace("`", "").replace("*", ""))
