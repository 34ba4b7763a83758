"""Warnings of other packages stay off the terminal; ours, other kinds, and what was asked for do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

CODE = """
import logging, warnings
from fit3d_ns.common.third_parties import quiet_third_parties
quiet_third_parties()
quiet_third_parties()
for module, category in (
    ("torch.cuda.amp", FutureWarning),
    ("nerfstudio", FutureWarning),
    ("viser", DeprecationWarning),
    ("timm.layers", FutureWarning),
    ("torch.nn", UserWarning),
    ("fit3d_ns.scene", FutureWarning),
    ("torchcrepe", FutureWarning),
):
    warnings.warn_explicit(f"from {module}", category, "file.py", 1, module=module)
for message in (
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`. In PyTorch 1.1.0 and later, ...",
    "Converting a tensor with requires_grad=True to a scalar may lead to unexpected behavior.",
):
    warnings.warn_explicit(message, UserWarning, "file.py", 1, module="nerfstudio.utils.writer")
log = logging.getLogger("torch.utils.flop_counter")
log.warning("triton not found; and so on")
log.warning("something else of triton")
"""
HIDDEN = (
    "from torch.cuda.amp",
    "from nerfstudio",
    "from timm.layers",
    "triton not found",
    "Detected call",
    "Converting a tensor",
)
STAYS = ("from torch.nn", "from fit3d_ns.scene", "from torchcrepe", "something else of triton")


def said(*options: str, **environment: str) -> str:
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "FIT3D_SHOW_WARNINGS")
    }
    done = subprocess.run(
        [sys.executable, *options, "-c", CODE],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**inherited, **environment},
        timeout=60,
        check=True,
    )
    return done.stderr


def test_what_users_can_do_nothing_about_is_hidden_and_all_else_stays() -> None:
    text = said()
    assert [words for words in HIDDEN if words in text] == []
    assert [words for words in STAYS if words not in text] == []


@pytest.mark.parametrize(
    ("options", "environment"),
    [((), {"FIT3D_SHOW_WARNINGS": "1"}), (("-W", "default"), {}), ((), {"PYTHONWARNINGS": "default"})],
)
def test_all_is_shown_where_it_is_asked_for(options: tuple[str, ...], environment: dict[str, str]) -> None:
    text = said(*options, **environment)
    assert [words for words in (*HIDDEN, *STAYS) if words not in text] == []
