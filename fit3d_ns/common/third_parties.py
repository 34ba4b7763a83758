"""What other packages say to their own developers, and users of ours can do nothing about, kept off their terminals."""

from __future__ import annotations

import logging
import os
import sys
import warnings

SHOW_VARIABLE = "FIT3D_SHOW_WARNINGS"

PACKAGES = ("gsplat", "nerfacc", "nerfstudio", "timm", "torch", "torchmetrics", "torchvision", "viser")
"""Those whose modules warn."""

CATEGORIES: tuple[type[Warning], ...] = (FutureWarning, DeprecationWarning)
"""Of names that will change: what we call of them is tested with the versions that are pinned."""

MESSAGES = (
    # nerfstudio's schedules go by the step of the training, also of what is not trained yet (features, poses).
    r"Detected call of `lr_scheduler\.step\(\)` before `optimizer\.step\(\)`",
    # nerfstudio writes losses to its logs as they are.
    "Converting a tensor with requires_grad=True to a scalar",
)
"""Beginnings of other warnings that torch gives of what nerfstudio means to do."""

LINES = {"torch.utils.flop_counter": "triton not found"}
"""By logger: the beginning of a line about what is missing on purpose."""


def quiet_third_parties() -> None:
    """Hide these from now on, unless $FIT3D_SHOW_WARNINGS or Python's -W asks for them.

    Our own warnings, all others of theirs, and every error stay.
    """
    if sys.warnoptions or os.environ.get(SHOW_VARIABLE, "0") != "0":
        return
    for category in CATEGORIES:
        warnings.filterwarnings("ignore", category=category, module=rf"({'|'.join(PACKAGES)})(\.|$)")
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message, UserWarning)
    for name, beginning in LINES.items():
        target = logging.getLogger(name)
        if not any(isinstance(known, _Without) for known in target.filters):
            target.addFilter(_Without(beginning))


class _Without(logging.Filter):
    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._beginning)
