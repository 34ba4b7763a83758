"""What nerfstudio's viewer shows of the features: PCA colours, the learned error, similarity to a clicked point."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerClick, ViewerControl
from torch import Tensor, nn

from fit3d_ns.common.console import logger
from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.pca import ColorProjection, PCAAccumulator
from fit3d_ns.scene.render import rasterize
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView

_MAX_PCA_GAUSSIANS = 50_000
_PROBE_FOCAL = 1000.0
"""Focal length, in pixels, of the 1x1 camera that looks along a click: about the footprint of one screen pixel."""


class FeatureModel(Protocol):
    """What the viewer needs of a model with features."""

    decoder: FeatureDecoder
    color_matrix: Tensor
    """[3, C] and `color_offset` [3]: from decoded features to the colours of `feature_pca`."""
    color_offset: Tensor

    @property
    def device(self) -> torch.device: ...

    @property
    def gauss_params(self) -> Mapping[str, Tensor]: ...

    def splats(self) -> Splats: ...

    def decode_gaussians(self, features: Tensor) -> Tensor: ...

    def set_color_projection(self, projection: ColorProjection) -> None: ...


class FeatureViewer(nn.Module):
    """The model's outputs for free cameras, and the buttons that go with them.

    nerfstudio's viewer finds `ViewerElement` and `ViewerControl` attributes by walking the public attributes of
    the pipeline's modules: this is a module (without parameters) for that reason, and holds its model weakly so
    that the walk does not go in circles.

    Args:
        model: the model whose Gaussians are shown.
    """

    def __init__(self, model: FeatureModel) -> None:
        super().__init__()
        self._model = weakref.ref(model)
        self._query: Tensor | None = None
        self.viewer_control = ViewerControl()
        self.refit_button = ViewerButton(name="Refit PCA colours", cb_hook=lambda _: self.refit())
        self.pick_button = ViewerButton(name="Similarity: pick a point", cb_hook=lambda _: self.start_picking())
        self.clear_button = ViewerButton(name="Similarity: clear", cb_hook=lambda _: self.clear_query())

    # ---- outputs

    @torch.no_grad()
    def outputs(self, splats: Splats, features: Tensor, errors: Tensor, view: PinholeView) -> dict[str, Tensor]:
        """Pictures of the features from one camera.

        Args:
            splats: the Gaussians that are shown, N of the model's.
            features: what they carry, [N, D].
            errors: and the error they have learned, [N, 1].
            view: the camera.

        Returns:
            `feature_pca` [H, W, 3] in 0..1, `feature_error` [H, W, 1] (1 - cosine, 0..2) and, once a point was
            picked, `similarity` [H, W, 1] (cosine, negative values cut off).
        """
        model, query = self._require_model(), self._query
        # A linear decoder commutes with blending: project every Gaussian to 3 colours and blend those, instead
        # of all channels. A similarity is not linear, and a convolution mixes pixels: these need the channels.
        early = model.decoder.kind == "linear" and query is None
        colors = model.decoder.followed_by(model.color_matrix, torch.zeros_like(model.color_offset))
        offset = model.color_offset
        if early and colors.bias is not None:
            features = F.linear(features, colors.weight)
            offset = offset + colors.bias
        image, _, _ = rasterize(splats, torch.cat([features, errors], dim=1), view)
        blended, error = image[0, ..., :-1], image[0, ..., -1:]
        pca = (blended if early else colors(blended)) + offset
        outputs = {"feature_pca": pca.clamp(0, 1), "feature_error": error.clamp(0, 2)}
        if query is not None:
            outputs["similarity"] = self._similarity(blended, query)
        return outputs

    def _similarity(self, blended: Tensor, query: Tensor) -> Tensor:
        decoder = self._require_model().decoder
        rows = [F.cosine_similarity(decoder(chunk), query, dim=-1) for chunk in self._chunks(blended)]
        return torch.cat(rows)[..., None].clamp_min(0)

    def _chunks(self, blended: Tensor) -> tuple[Tensor, ...]:
        # Decoded pixels are wide (C floats each): a convolution needs them together, a matrix does not.
        whole = self._require_model().decoder.kind == "conv3x3"
        return (blended,) if whole else blended.split(32)

    # ---- actions of the buttons: nerfstudio runs them on a thread of the viewer, holding its train lock (which
    # cannot be taken twice), and renders again after them. It does neither for a click in the scene.

    @torch.no_grad()
    def refit(self) -> None:
        """Fit the colours of `feature_pca` to the Gaussians' own features, weighted by opacity."""
        model = self._require_model()
        features = model.gauss_params["features"]
        opacities = model.splats().opacities
        step = max(1, len(features) // _MAX_PCA_GAUSSIANS)
        decoded = model.decode_gaussians(features[::step])
        accumulator = PCAAccumulator(decoded.shape[-1])
        accumulator.add(decoded, opacities[::step])
        model.set_color_projection(ColorProjection.from_basis(accumulator.basis(3)))

    def start_picking(self) -> None:
        """Wait for one click in the scene; `similarity` then shows the cosine to that point's feature."""
        control = self.viewer_control

        def picked(click: ViewerClick) -> None:
            control.unregister_pointer_cb()
            self.pick(torch.tensor(click.origin), torch.tensor(click.direction))

        control.register_pointer_cb("click", picked)
        logger.info("Similarity: click a point in the scene, then choose the output 'similarity'.")

    @torch.no_grad()
    def pick(self, origin: Tensor, direction: Tensor) -> None:
        """Take the feature seen along a ray as the query of `similarity`, and render again.

        Args:
            origin: [3] in scene units.
            direction: [3], any length.
        """
        model = self._require_model()
        with self._lock():
            K = torch.tensor([[_PROBE_FOCAL, 0, 0.5], [0, _PROBE_FOCAL, 0.5], [0, 0, 1]])
            view = PinholeView(look_along(origin.float(), direction.float()), K, 1, 1, grid=(1, 1))
            pixel, _, _ = rasterize(model.splats(), model.gauss_params["features"], view)
            self._query = model.decode_gaussians(pixel[0, 0])[0]
        self._rerender()

    def clear_query(self) -> None:
        """Forget the picked point: `similarity` disappears."""
        self._query = None

    # ---- the viewer behind the buttons (none while training without one)

    def _require_model(self) -> FeatureModel:
        model = self._model()
        assert model is not None, "the viewer outlived its model"
        return model

    def _lock(self) -> AbstractContextManager[object]:
        viewer = getattr(self.viewer_control, "viewer", None)
        lock = getattr(viewer, "train_lock", None)
        return nullcontext() if lock is None else lock

    def _rerender(self) -> None:
        viewer = getattr(self.viewer_control, "viewer", None)
        if viewer is not None:
            viewer._trigger_rerender()


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
