"""Options of the model: splatfacto's and those of the feature head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nerfstudio.models.splatfacto import SplatfactoModelConfig

from fit3d_ns.common.errors import InputError
from fit3d_ns.features.loss import FeatureLossKind, FeatureSupervision
from fit3d_ns.features.position import ViewDependence
from fit3d_ns.method.losses import MaskedPixels
from fit3d_ns.photometric import Border


@dataclass
class Fit3DModelOptions(SplatfactoModelConfig):
    """splatfacto's options and those of the feature head; `fit3d_ns.method.model.Fit3DModelConfig` names the model."""

    feature_dim: int = 64
    """Channels of the feature vector that each Gaussian carries."""
    decoder: Literal["linear", "conv3x3"] = "linear"
    """From the Gaussians' channels to the backbone's: linear (starts from the scene's PCA basis), or the
    paper's 3x3 convolution (starts at random)."""
    feature_lift: Literal["solve", "train"] = "train"
    """How features come about: solve (colour alone is trained; at the end one least-squares problem gives all
    features in seconds; needs the linear decoder), or train (gradient steps with the feature loss beside colour;
    the options below from feature_loss to feature_downscale are for it)."""
    feature_view_dependence: ViewDependence = "position"
    """What is solved for beside the Gaussians' features: position (what features say of the place in the image alone,
    the same in all views), or none. Trained features have none."""
    feature_loss: FeatureLossKind = "cosine+l1"
    """Loss on the decoded features: the paper's l1, or cosine+l1."""
    feature_loss_weight: float = 1.0
    """Weight of the feature loss beside the colour loss."""
    feature_supervision: FeatureSupervision = "patch"
    """Compare on the backbone's patch grid (rendered features are averaged over each patch), or at every pixel
    with the bilinearly upsampled map as in the paper (memory and time grow with the pixels)."""
    couple_geometry: bool = False
    """Let the feature loss move and resize Gaussians, too. Off, as in the paper: colour alone shapes the scene, as
    the features of different views disagree. The learned error never moves anything."""
    feature_start_step: int = 0
    """First step with a feature loss. Before it only colour is trained."""
    feature_init: Literal["back-projection", "zeros"] = "back-projection"
    """Features at the first step of the feature loss: the mean of what all training views show where a Gaussian
    is seen (needs the linear decoder; seconds), or zeros as in the paper."""
    feature_downscale: int = 1
    """Render features at 1/d of the image size while training (metrics and exports use the full size)."""
    masked_pixels: MaskedPixels = "black"
    """What masked pixels count as: black in photo and rendering, and left out of the features' mean (as in
    splatfacto); or as what is rendered there, in photo and feature map (as in the paper: they count as no error)."""
    ssim_border: Border = "valid"
    """SSIM of the windows that lie inside the image, or of one around every pixel with zeros outside (the paper)."""
    strategy: Literal["default", "mcmc"] = "default"
    """Densification: 3DGS's clone, split and prune, or MCMC relocation."""
    max_gs_num: int = 1_000_000
    """Upper bound of Gaussians; densification stops there."""
    densification: Literal["gsplat", "3dgs"] = "gsplat"
    """Where gsplat's schedule and that of 3DGS (and the paper) differ: gsplat also resets opacities at step 0, and
    after each reset waits until every view was seen (default)."""
    scene_extent: Literal["unit", "cameras"] = "unit"
    """What the sizes at which Gaussians are cloned, split or pruned and the learning rate of positions are relative
    to: nerfstudio's unit, or 1.1 times the largest distance of a camera from their centre (3DGS and the paper)."""
    noise_lr: float = 5e5
    """Scale of the position noise (mcmc)."""
    mcmc_opacity_reg: float = 0.01
    """Weight of the opacity penalty (mcmc)."""
    mcmc_scale_reg: float = 0.01
    """Weight of the scale penalty (mcmc)."""
    compare_backbone: str | None = None
    """Folder of a fine-tuned backbone to compare with in the viewer: its features of the training photos are lifted
    into the Gaussians, too, when a page is opened and no training is under way. It changes nothing of the run."""

    def check(self) -> None:
        """Raise `InputError` for options that make no sense or do not go together."""
        if self.feature_dim < 1:
            raise InputError(
                f"--pipeline.model.feature-dim is {self.feature_dim}: a Gaussian needs at least 1 feature channel; 64 "
                "is the default."
            )
        if self.feature_lift != "solve":
            return
        wanted = {"decoder": "linear", "feature_supervision": "patch", "couple_geometry": False}
        for name, value in wanted.items():
            if getattr(self, name) != value:
                option = name.replace("_", "-")
                raise InputError(
                    f"--pipeline.model.{option} {getattr(self, name)} needs trained features: add "
                    f"--pipeline.model.feature-lift train, or leave {option} at {value} to solve for them."
                )
