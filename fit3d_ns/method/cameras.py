"""nerfstudio's cameras as the rasteriser takes them."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from fit3d_ns.scene.views import PinholeView


def pinhole_view(
    camera: Cameras,
    camera_to_worlds: Tensor,
    downscale: int = 1,
    grid: tuple[int, int] | None = None,
    mask: Tensor | None = None,
) -> PinholeView:
    """One camera as everything outside `fit3d_ns.method` takes it; differentiable in its pose.

    Args:
        camera: of one image; only its intrinsics and size are used.
        camera_to_worlds: its pose [1, 3, 4], perhaps corrected by a camera optimiser.
        downscale: the image is 1/downscale of the camera's size.
        grid: of patches; None: every pixel is one.
        mask: [height, width] of the view.
    """
    K, width, height = pixel_grid(camera, downscale)
    pose = world_to_camera(camera_to_worlds)
    return PinholeView(pose.squeeze(0), K.squeeze(0), width, height, grid or (height, width), mask)


def pixel_grid(camera: Cameras, downscale: int) -> tuple[Tensor, int, int]:
    """Intrinsics [1, 3, 3], width and height of the camera's image at 1/downscale of its size.

    nerfstudio's own rescaling changes the camera in place and rounds its size on the way there and back.
    """
    K = camera.get_intrinsics_matrices().to(camera.device)
    K[:, :2] /= downscale
    width, height = int(camera.width.item()) // downscale, int(camera.height.item()) // downscale
    return K, width, height


def camera_extent(camera_to_worlds: Tensor) -> float:
    """How large 3DGS takes a scene to be: 1.1 times the largest distance of a camera [C, 3, 4] from their centre."""
    positions = camera_to_worlds[:, :3, 3].double()
    return 1.1 * float((positions - positions.mean(0)).norm(dim=-1).max())


def world_to_camera(camera_to_worlds: Tensor) -> Tensor:
    """View matrices [C, 4, 4] with OpenCV axes from nerfstudio's camera-to-world [C, 3, 4] with OpenGL axes.

    splatfacto has the same in `get_viewmat`, behind a torch.compile that needs a compiler at run time.
    """
    rotation = camera_to_worlds[:, :3, :3] * camera_to_worlds.new_tensor([1.0, -1.0, -1.0])
    inverse = rotation.transpose(1, 2)
    translation = -inverse @ camera_to_worlds[:, :3, 3:4]
    last_row = camera_to_worlds.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(inverse), 1, 4)
    return torch.cat([torch.cat([inverse, translation], dim=2), last_row], dim=1)
