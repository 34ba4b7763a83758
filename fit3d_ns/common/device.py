"""Where to compute, as the commands' --device says."""

from __future__ import annotations

import torch

from fit3d_ns.common.choices import DeviceChoice
from fit3d_ns.common.errors import InputError


def choose_device(choice: DeviceChoice) -> str:
    """The device that "auto" means here, else `choice` itself.

    Raises:
        InputError: CUDA was asked for and there is none.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA GPU here; leave it out to use the CPU.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if choice == "auto" else choice
