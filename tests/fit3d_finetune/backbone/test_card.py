"""The front matter of a model card is what the hub reads: licence, base model, what the model is for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import timm
import yaml
from huggingface_hub import ModelCard

from fit3d_finetune.backbone.card import model_card
from fit3d_finetune.backbone.origin import HUB_LICENCES, origin_of
from tests.fit3d_finetune.finetuned import summary_of
from tests.fit3d_finetune.scenes import BACKBONE, backbone_info

DINOV2 = "vit_small_patch14_dinov2.lvd142m"


def front_matter(name: str, weights: str, **run: Any) -> dict[str, Any]:
    config = dataclasses.replace(BACKBONE, weights=weights)
    summary = summary_of(config)
    summary["run"] |= run
    card = model_card(dataclasses.replace(backbone_info(), name=name), summary)
    assert card.startswith("---\n")
    found = yaml.safe_load(card.split("---\n")[1])
    # As the hub's own client reads it.
    assert {key: value for key, value in ModelCard(card).data.to_dict().items() if value is not None} == found
    return dict(found)


def test_it_says_what_the_hub_asks_for() -> None:
    assert front_matter(DINOV2, "hub") == {
        "license": "apache-2.0",
        "base_model": f"timm/{DINOV2}",
        "base_model_relation": "finetune",
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["timm", "fit3d", "3d-aware"],
    }
    assert front_matter(DINOV2, "hub", save="adapter", adapter="lora", rank=4)["base_model_relation"] == "adapter"


@pytest.mark.parametrize(
    ("weights", "licence"), [("offline", "mit"), ("/x/mine: #1.pth", "unknown"), ("random", "unknown")]
)
def test_weights_that_no_hub_has_have_no_base_model(weights: str, licence: str) -> None:
    found = front_matter(DINOV2, weights)
    assert found["license"] == licence
    assert not {"base_model", "base_model_relation"} & found.keys()


def test_a_licence_that_the_hub_has_no_name_for_is_other_with_its_name() -> None:
    name = timm.list_pretrained("vit_small_patch16_dinov3.*")[0]
    found = front_matter(name, "hub")
    assert (found["license"], found["license_name"]) == ("other", "dinov3-license")


@pytest.mark.parametrize("name", [*timm.list_pretrained("vit_*")[::25], *timm.list_pretrained("eva02*")[::5]])
def test_every_model_of_timm_has_an_origin(name: str) -> None:
    metadata = origin_of(name, "hub").metadata()
    assert metadata["license"] in HUB_LICENCES
    assert metadata["license"] != "other" or metadata["license_name"]
    assert "/" in metadata.get("base_model", "/")
