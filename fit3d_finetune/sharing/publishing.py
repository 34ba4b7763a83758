"""A fine-tuned folder on the Hugging Face hub: exactly the files that fit3d-finetune wrote, and nothing without a word.

timm then loads it by "hf-hub:USER/NAME".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fit3d_finetune.backbone.adapter import ADAPTER_CONFIG_FILE
from fit3d_finetune.backbone.geometry import HEADS_FILE
from fit3d_finetune.backbone.hub import (
    CARD_FILE,
    CONFIG_FILE,
    INFO_FILE,
    WEIGHTS_FILE,
    read_finetuned,
)
from fit3d_finetune.backbone.origin import origin_of
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.adapter import ADAPTER_FILE, ADAPTER_FOLDER
from fit3d_ns.features.config import NAMED_WEIGHTS

PUBLISHED = (
    CARD_FILE,
    CONFIG_FILE,
    INFO_FILE,
    WEIGHTS_FILE,
    HEADS_FILE,
    f"{ADAPTER_FOLDER}/{ADAPTER_CONFIG_FILE}",
    f"{ADAPTER_FOLDER}/{ADAPTER_FILE}",
)
"""All that may leave the folder: text, JSON and safetensors."""


@dataclass(frozen=True)
class Plan:
    """What publishing a folder would do."""

    folder: Path
    files: dict[str, int]
    """Size in bytes by name."""
    left: tuple[str, ...]
    """Files that stay where they are."""
    notes: tuple[str, ...]
    """On licences, and on what the files tell."""


def plan(folder: Path) -> Plan:
    """What would be uploaded of a folder; asks no network.

    Raises:
        InputError: not a fine-tuned folder, no model card, or a file that is not what its name says.
    """
    described = read_finetuned(folder)
    if not (folder / CARD_FILE).is_file():
        raise InputError(f"{folder} has no {CARD_FILE}: write one, it is what others read of the model first.")
    files = {name: (folder / name).stat().st_size for name in PUBLISHED if (folder / name).is_file()}
    for name in files:
        if name.endswith(".safetensors"):
            _require_safetensors(folder / name)
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    original = described.original
    origin = origin_of(original.name, original.weights)
    held = "all weights, which are derived from" if WEIGHTS_FILE in files else "an adapter alone, made for"
    notes = [
        f"Licence of the original, {original.name}: {origin.licence}"
        + (f" ({origin.base_model})." if origin.base_model else "."),
        f"The folder holds {held} the original's: see that its licence allows you to pass that on.",
    ]
    if origin.licence == "unknown":
        notes.append(f"Nobody told fit3d that licence: put it into the first lines of {CARD_FILE} (license: …).")
    if original.weights not in NAMED_WEIGHTS:
        notes.append(f"{INFO_FILE} and {CARD_FILE} name the place of the original weights here: {original.weights}.")
    notes.append(f"{CARD_FILE} names the scenes that were trained on.")
    return Plan(folder, files, tuple(name for name in there if name not in files), tuple(notes))


def publish(plan: Plan, repo_id: str, private: bool, token: str | None = None, endpoint: str | None = None) -> str:
    """Upload the planned files in one commit, to a repository that is made if it is not there; returns its address.

    Args:
        repo_id: "user/name".
        private: of a new repository; one that is there stays as it is.
        token: that may write. None: $HF_TOKEN, or what `hf auth login` keeps.
        endpoint: of another hub. None: $HF_ENDPOINT, or huggingface.co.

    Raises:
        InputError: no such name, no permission, or the hub cannot be reached. The repository may be there then, but
            none of the files.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    require_repo_id(repo_id)
    api = HfApi(endpoint=endpoint, token=token)
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=plan.folder,
            allow_patterns=list(plan.files),
            commit_message="Fine-tuned by fit3d",
        )
    except HfHubHTTPError as error:
        raise InputError(f"{api.endpoint} {_answer(error, repo_id)}") from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{api.endpoint} cannot be reached, or broke off ({reason}): no file was published; try again later."
        ) from error
    return str(address)


def require_repo_id(repo_id: str) -> None:
    """Raise `InputError` if this is no name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"--repo-id {repo_id!r} is no name of a repository ({reason}): give user/name.") from error
    if "/" not in repo_id:
        raise InputError(f"--repo-id {repo_id} lacks the user or organisation: give user/name.")


def _answer(error: Exception, repo_id: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"does not let you write {repo_id} ({status}): give a token that may, by --token, $HF_TOKEN or "
            "“hf auth login”; no file was published."
        )
    reason = (getattr(error, "server_message", None) or str(error)).strip().splitlines()[0]
    return f"refused {repo_id} ({status}: {reason}); no file was published."


def _require_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is no safetensors file ({error}): fine-tune again.") from error
