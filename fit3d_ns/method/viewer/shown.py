"""What is shown of a model's Gaussians: which features, which clusters, and which Gaussians at all."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from fit3d_ns.features.clusters import fit_clusters
from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.pca import ColorProjection
from fit3d_ns.method.viewer.carried import MOST_CLUSTERED, CarriedFeatures, Coordinates, fit_colors, sample_step
from fit3d_ns.method.viewer.legend import COMPARED, LIFTED
from fit3d_ns.method.viewer.pictures import Pictures
from fit3d_ns.method.viewer.selection import Limits, both, confident, dimmed, isolated
from fit3d_ns.scene.render import rasterize
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView

SHOWN_CHANNELS = "shown_channels"
"""Entry of the prepared Gaussians: what is to be blended for `Pictures.of_blend`."""

_LEAST_ALPHA = 0.1
"""Where the Gaussians stop less light, a click meets nothing."""


class FeatureModel(Protocol):
    """What the viewer needs of a model with features."""

    decoder: FeatureDecoder
    color_matrix: Tensor
    """[3, C] and `color_offset` [3]: from decoded features to the colours of `feature_pca`."""
    color_offset: Tensor
    step: int

    @property
    def gauss_params(self) -> Mapping[str, Tensor]: ...

    @property
    def position_term(self) -> Tensor | None: ...

    def splats(self) -> Splats: ...

    def set_color_projection(self, projection: ColorProjection) -> None: ...


class Settings(Protocol):
    """What the user has chosen."""

    @property
    def kind(self) -> str: ...

    @property
    def clusters(self) -> int: ...

    @property
    def dims(self) -> bool: ...

    def limits(self) -> Limits: ...


@dataclass(frozen=True, eq=False)
class Pick:
    """A clicked pixel."""

    view: PinholeView
    """A camera of one pixel that looks along the click."""
    point: Tensor | None
    """[3], where the click met the scene; None: nowhere."""


@dataclass(frozen=True, eq=False)
class _Clusters:
    """Clusters of one kind of features, and when they were fitted."""

    wanted: int
    step: int
    centers: Tensor
    """[K, C]."""


class ShownFeatures:
    """Works out, of all Gaussians, what their pictures need: when something has changed, not for every picture.

    The caller holds nerfstudio's train lock.

    Args:
        model: held weakly.
        settings: the user's.
    """

    def __init__(self, model: FeatureModel, settings: Settings) -> None:
        self._model = weakref.ref(model)
        self._settings = settings
        self._compared: tuple[CarriedFeatures, weakref.ref[Tensor]] | None = None
        self._pick: Pick | None = None
        self._queries: dict[str, Tensor] = {}
        self._clusters: dict[str, _Clusters] = {}
        self._all_shown = False
        self._kept: tuple[list[Tensor | None], list[int], Pictures] | None = None
        self._begun: tuple[str, Pictures] | None = None

    @property
    def model(self) -> FeatureModel:
        model = self._model()
        assert model is not None, "the viewer outlived its model"
        return model

    # ---- features

    def carried(self, kind: str) -> CarriedFeatures | None:
        """The features of one kind, if the Gaussians carry it."""
        model = self.model
        if kind == COMPARED:
            # Densification makes other Gaussians of those that were lifted into, in new tensors; of them there may be
            # as many as before.
            if self._compared is not None and self._compared[1]() is not model.gauss_params["means"]:
                self._compared = None
            return None if self._compared is None else self._compared[0]
        parameters = model.gauss_params
        colors = ColorProjection(model.color_matrix, model.color_offset)
        return CarriedFeatures(parameters["features"], parameters["feature_errors"], model.decoder, colors)

    def _shown(self) -> tuple[str, CarriedFeatures]:
        wanted = COMPARED if self._settings.kind == COMPARED else LIFTED
        features = self.carried(wanted)
        kind, features = (LIFTED, self.carried(LIFTED)) if features is None else (wanted, features)
        assert features is not None
        return kind, features

    def set_compared(self, features: CarriedFeatures) -> None:
        """Have features of another backbone, lifted into the Gaussians as they are, beside the model's own."""
        self._compared = features, weakref.ref(self.model.gauss_params["means"])
        self._clusters.pop(COMPARED, None)
        self._find_query(COMPARED)

    def refit(self) -> None:
        """Fit colours and clusters to what the Gaussians carry now; those of the model are kept with it."""
        kind, features = self._shown()
        colors = fit_colors(features.codes, features.decoder, self.model.splats().opacities)
        if kind == LIFTED:
            self.model.set_color_projection(colors)
        elif self._compared is not None:
            self._compared = replace(features, colors=colors), self._compared[1]
        self._clusters.pop(kind, None)

    # ---- pictures

    def begun(self) -> tuple[str, Pictures]:
        """The kind of features, `LIFTED` or `COMPARED`, and their pictures, for which `prepared` was last called.

        Controls are set while a picture is being rendered: the rest of it is to be of what it was begun with.
        """
        if self._begun is None:
            self.pictures()
        assert self._begun is not None
        return self._begun

    def pictures(self) -> Pictures:
        """Of the features that are chosen, as they are now."""
        kind, features = self._shown()
        pictures = self._pictures(kind, features)
        self._begun = kind, pictures
        return pictures

    def _pictures(self, kind: str, features: CarriedFeatures) -> Pictures:
        centers, query = self._centers(kind, features), self._queries.get(kind)
        colors, matrix = features.colors, features.decoder.weight
        watched = [features.codes, features.errors, matrix, colors.matrix, colors.offset, centers, query]
        # Code that writes past autograd leaves versions as they are, but does so in steps of the training.
        versions = [self.model.step, *(0 if values is None else values._version for values in watched)]
        if self._kept is not None:
            before, versions_before, pictures = self._kept
            if versions == versions_before and all(a is b for a, b in zip(watched, before, strict=True)):
                return pictures
        pictures = Pictures(features, Coordinates(features.decoder), centers, query)
        self._kept = watched, versions, pictures
        return pictures

    def _centers(self, kind: str, features: CarriedFeatures) -> Tensor | None:
        """The clusters' centres [K, C], fitted if there are none; None while there are no features."""
        fitted, step, wanted = self._clusters.get(kind), self.model.step, self._settings.clusters
        # In training features become others: they are fitted anew after ever longer times.
        if fitted is not None and fitted.wanted == wanted and step <= 2 * fitted.step + 100:
            return fitted.centers
        if not bool(features.codes.any()):
            return None
        with torch.no_grad():
            coordinates, every = Coordinates(features.decoder), sample_step(len(features.codes), MOST_CLUSTERED)
            placed = coordinates.of_codes(features.codes[::every])
            opacities = torch.sigmoid(self.model.gauss_params["opacities"][::every, 0])
            centers = coordinates.to_features(fit_clusters(placed, wanted, opacities))
        self._clusters[kind] = _Clusters(wanted, step, centers)
        return centers

    # ---- which Gaussians

    @contextmanager
    def everything(self) -> Iterator[None]:
        """Hide nothing for a while."""
        self._all_shown = True
        try:
            yield
        finally:
            self._all_shown = False

    @torch.no_grad()
    def masks(self, pictures: Pictures) -> tuple[Tensor | None, Tensor | None]:
        """Which Gaussians are sure enough and which belong to the clicked thing, [N] each; None: all."""
        if self._all_shown:
            return None, None
        parameters, limits = self.model.gauss_params, self._settings.limits()
        sure = confident(pictures.features.errors, torch.sigmoid(parameters["opacities"]).squeeze(-1), limits)
        point = None if self._pick is None else self._pick.point
        similarities = pictures.similarities if limits.similarity > -1 else None
        return sure, isolated(similarities, parameters["means"], point, limits)

    def prepared(self, gaussians: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those Gaussians that are to be shown, with one entry more, `SHOWN_CHANNELS`.

        Args:
            gaussians: all of the model's, raw.
        """
        pictures = self.pictures()
        prepared = {**gaussians, SHOWN_CHANNELS: pictures.channels}
        sure, chosen = self.masks(pictures)
        if chosen is not None and self._settings.dims:
            prepared["opacities"] = dimmed(gaussians["opacities"], chosen)
            chosen = None
        kept = both(sure, chosen)
        return prepared if kept is None else {name: values[kept] for name, values in prepared.items()}

    @torch.no_grad()
    def selection(self) -> Splats:
        """The Gaussians that no control hides or dims, in memory of their own."""
        kept = both(*self.masks(self.pictures()))
        splats = self.model.splats()
        return (splats if kept is None else splats.subset(kept)).copied()

    @torch.no_grad()
    def rehearse(self, view: PinholeView) -> None:
        """Do once what a picture and a click need, so that neither waits for kernels, clusters or colours."""
        pictures, splats = self.pictures(), self.model.splats()
        pixel, _, _ = rasterize(splats, pictures.features.codes, view)
        rasterize(splats, splats.means, view, render_mode="ED")
        rasterize(splats, splats.sh, view, render_mode="RGB+ED", sh_degree=splats.sh_degree)
        weight, bias = pictures.features.decoder.as_matrix()
        clicked = replace(pictures, query=weight @ pixel[0, 0, 0] + bias)
        for each in (pictures, clicked):
            each.of_blend(rasterize(splats, each.channels, view)[0][0])

    # ---- the clicked point

    @torch.no_grad()
    def pick(self, view: PinholeView) -> Pick:
        """Take what a camera of one pixel sees as the query, and the thing to isolate."""
        sure, chosen = self.masks(self.pictures())
        seen = both(sure, None if self._settings.dims else chosen)
        splats = self.model.splats() if seen is None else self.model.splats().subset(seen)
        depth, alpha, _ = rasterize(splats, splats.means, view, render_mode="ED")
        point = None
        if float(alpha) >= _LEAST_ALPHA:
            pose = view.world_to_camera
            point = pose[:3, :3].T @ (pose.new_tensor([0, 0, 1]) * depth[0, 0, 0, -1].to(pose) - pose[:3, 3])
        self._pick = Pick(view, point)
        self._queries.clear()
        for kind in (LIFTED, COMPARED):
            self._find_query(kind)
        return self._pick

    @torch.no_grad()
    def _find_query(self, kind: str) -> None:
        """What the picked pixel shows of one kind of features."""
        self._queries.pop(kind, None)
        features = self.carried(kind)
        if self._pick is None or features is None:
            return
        pixel, _, _ = rasterize(self.model.splats(), features.codes, self._pick.view)
        weight, bias = features.decoder.as_matrix()
        self._queries[kind] = weight @ pixel[0, 0, 0] + bias

    def forget_pick(self) -> None:
        """No query, and nothing isolated."""
        self._pick = None
        self._queries.clear()
