"""fit3d: fine-tuning and probing of 2D backbones on 3D-consistent features. Needs no nerfstudio."""
