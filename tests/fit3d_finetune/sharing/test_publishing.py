"""Publishing uploads exactly the files of a fine-tuning, when it is asked to, and says what it would do before."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch

from fit3d_finetune.backbone.geometry import GeometryHeads, save_heads
from fit3d_finetune.sharing.publishing import PUBLISHED, plan, publish, require_repo_id
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.sharing.hub_server import FakeHub


@pytest.fixture
def cluttered(finetuned: Path) -> Path:
    """A folder with everything of ours in it, and much that must not leave it."""
    save_heads(GeometryHeads(64, depth=True, normals=True), 1.0, finetuned)
    (finetuned / "adapter").mkdir()
    (finetuned / "logs").mkdir()
    for name in ("adapter_model.safetensors",):
        (finetuned / "adapter" / name).write_bytes((finetuned / "model.safetensors").read_bytes())
    (finetuned / "adapter" / "adapter_config.json").write_text("{}")
    torch.save({}, finetuned / "checkpoint.pt")
    for name in ("secrets.txt", "adapter/notes.txt", "logs/README.md", "model.safetensors.bak", ".fit3d-finetune"):
        (finetuned / name).write_text("mine")
    return finetuned


def test_what_is_published_is_what_lies_there_of_ours_and_nothing_else(cluttered: Path, hub: FakeHub) -> None:
    planned = plan(cluttered)
    address = publish(planned, "someone/rooms", private=True, token="good", endpoint=hub.endpoint)
    assert address == f"{hub.endpoint}/someone/rooms"
    [commit] = hub.commits
    assert set(commit) == set(PUBLISHED) == set(planned.files)
    for name, content in commit.items():
        assert content == (cluttered / name).read_bytes(), name
    assert hub.created == [{"name": "rooms", "organization": "someone", "visibility": "private"}]
    assert {"secrets.txt", "checkpoint.pt", "logs/README.md", "adapter/notes.txt"} <= set(planned.left)


def test_a_folder_without_heads_or_adapter_is_published_without_them(finetuned: Path, hub: FakeHub) -> None:
    publish(plan(finetuned), "someone/rooms", private=False, token="good", endpoint=hub.endpoint)
    assert set(hub.commits[0]) == {"README.md", "config.json", "fit3d.json", "model.safetensors"}
    assert hub.created[0].get("visibility", "public") == "public"


def test_the_plan_tells_of_licence_and_of_what_the_files_give_away(finetuned: Path) -> None:
    notes = " ".join(plan(finetuned).notes)
    assert "Licence of the original, test_vit: unknown." in notes
    assert "put it into the first lines of README.md" in notes
    assert "names the scenes" in notes
    info = json.loads((finetuned / "fit3d.json").read_text())
    info["original"] |= {"weights": "/home/someone/mine.pth"}
    (finetuned / "fit3d.json").write_text(json.dumps(info))
    assert "name the place of the original weights here: /home/someone/mine.pth." in " ".join(plan(finetuned).notes)
    info["original"] |= {"weights": "hub", "name": "vit_small_patch14_dinov2.lvd142m"}
    (finetuned / "fit3d.json").write_text(json.dumps(info))
    notes = " ".join(plan(finetuned).notes)
    assert "lvd142m: apache-2.0 (timm/vit_small_patch14_dinov2.lvd142m)." in notes
    assert "unknown" not in notes


def test_a_token_that_may_not_write_is_said_and_nothing_is_sent(finetuned: Path, hub: FakeHub) -> None:
    with pytest.raises(InputError, match=r"does not let you write someone/rooms \(401\): give a token") as caught:
        publish(plan(finetuned), "someone/rooms", private=False, token="hf_bad", endpoint=hub.endpoint)
    assert "hf_bad" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hub.created == hub.commits == []


def test_a_refused_commit_is_said_in_the_words_of_the_hub(finetuned: Path, hub: FakeHub) -> None:
    hub.refuse_commits = True
    with pytest.raises(InputError, match=r"refused someone/rooms \(400: .*the storage is full.*\); no file") as caught:
        publish(plan(finetuned), "someone/rooms", private=False, token="good", endpoint=hub.endpoint)
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_said(finetuned: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"{endpoint} cannot be reached, or broke off \(.+\): no file") as caught:
            publish(plan(finetuned), "someone/rooms", private=False, token="good", endpoint=endpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("repo_id", "message"),
    [("rooms", "lacks the user"), ("a/b/c", "no name of a repository"), ("a/b c", "no name"), ("", "no name|lacks")],
)
def test_a_name_that_is_none_is_named(repo_id: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_repo_id(repo_id)


def test_a_folder_that_is_not_fit_to_be_published_is_named(finetuned: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a fine-tuned backbone"):
        plan(tmp_path)
    card = (finetuned / "README.md").rename(tmp_path / "card")
    with pytest.raises(InputError, match=r"has no README\.md: write one"):
        plan(finetuned)
    card.rename(finetuned / "README.md")
    torch.save({"a": torch.ones(3)}, finetuned / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors is no safetensors file"):
        plan(finetuned)
