"""fit3d: dense backbone features lifted into 3D Gaussians (the nerfstudio method and the shared half)."""

__version__ = "0.1.0"
