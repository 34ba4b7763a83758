"""The recipes that are compared, by name: options of fit3d-finetune beside those of the recommended preset."""

from __future__ import annotations


def _weights(depth: float, normals: float, class_token: float) -> tuple[str, ...]:
    return (
        *("--depth-weight", str(depth), "--normal-weight", str(normals)),
        *("--class-token-weight", str(class_token)),
    )


ALL = _weights(1, 1, 1)
MIRROR = ("--targets", "mirror")
GRAM = ("--gram-weight", "2")
"""As in DINOv3."""
MARGIN = ("--anchor-weight", "1", "--anchor-margin", "0.85")
MAIN = "depth, normals, class token"
"""The recommended one. Those that differ from it in one thing are named by that."""
RECIPES: dict[str, tuple[str, ...]] = {
    "features": _weights(0, 0, 0),
    "class token": _weights(0, 0, 1),
    "depth": _weights(1, 0, 0),
    "depth, class token": _weights(1, 0, 1),
    "depth, normals": _weights(1, 1, 0),
    MAIN: ALL,
    "all of them twice": _weights(2, 2, 2),
    "position kept": (*ALL, "--position-share", "1"),
    "gram": (*ALL, *GRAM),
    "margin": (*ALL, *MARGIN),
    "gram, margin": (*ALL, *GRAM, *MARGIN),
    "crops": (*ALL, "--crop-scale", "0.5"),
    "twice the rate": (*ALL, "--lr", "2e-4"),
    "four epochs": (*ALL, "--epochs", "4"),
    "adapter": (*ALL, "--adapter", "lora", "--rank", "8", "--save", "merged", "--lr", "1e-3"),
    "mirror": (*MIRROR, *_weights(0, 0, 0)),
    "mirror, depth, normals, class token": (*MIRROR, *ALL),
}
"""By what is taught beside features, or how. Mirror: the control's features."""


def file_name(recipe: str) -> str:
    """The name of a recipe as part of a file's."""
    return recipe.replace(", ", "-").replace(" ", "_")
