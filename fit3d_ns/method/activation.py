"""splatfacto's raw parameters as `Splats`, wherever they come from: a model in training, or a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModelConfig
from torch import Tensor

from fit3d_ns.scene.splats import Splats


def activated(parameters: Mapping[str, Tensor], config: SplatfactoModelConfig) -> Splats:
    """The Gaussians of `parameters` (splatfacto's `gauss_params`); differentiable.

    Args:
        parameters: "means", "quats", "scales", "opacities", "features_dc" [N, 3], "features_rest" [N, K - 1, 3].
        config: of the model that they belong to.
    """
    base = parameters["features_dc"]
    if config.sh_degree == 0:
        base = RGB2SH(torch.sigmoid(base))  # splatfacto keeps plain colours then
    sh = torch.cat((base[:, None, :], parameters["features_rest"]), dim=1)
    return Splats.from_raw(parameters, sh, config.rasterize_mode)
