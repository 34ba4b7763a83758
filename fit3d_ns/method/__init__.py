"""The nerfstudio method. Only this folder and `commands` know nerfstudio."""
