"""What the colours of each output mean, in words."""

from __future__ import annotations

LIFTED, COMPARED, PHOTO = "lifted", "compared backbone", "nearest photo"
"""Kinds of features that can be shown."""

_KINDS = {
    LIFTED: "the features that the Gaussians carry",
    COMPARED: "the features of the compared backbone, lifted into the same Gaussians",
    PHOTO: "the backbone's own map of the training photo that is taken from nearest to here",
}

_OUTPUTS = {
    "feature_pca": "red, green and blue are the three main components of {kind}. The same colour means a similar "
    "feature, in every view.",
    "feature_error": "1 − cosine between rendered and true features, as learned by the Gaussians: 0 agrees, 1 says "
    "nothing.",
    "similarity": "cosine of each pixel's feature to that of the clicked point, of {kind}: 1 is the same.",
    "clusters": "one colour for each group of similar features (k-means), of {kind}. Colours stay the same in every "
    "view, until *k* changes or the colours are fitted anew.",
    "depth": "distance along the camera's axis, in units of the scene.",
    "accumulation": "how much of the light the Gaussians stop: 0 is empty, 1 opaque.",
    "rgb": "colour as rendered.",
}


def legend(output: str, kind: str) -> str:
    """A line of markdown about an output of the model, `kind` being one of those above."""
    text = _OUTPUTS.get(output)
    if text is None:
        return "Choose an *Output type* above."
    return f"**{output}**: {text.format(kind=_KINDS[kind])}"
