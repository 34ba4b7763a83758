"""Paths in files of others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fit3d_ns.common.paths import path_fault


@pytest.mark.parametrize("value", ["images/0.png", "/abs/0.png", "../up.png", "ä/ö.png", "a" * 255, "d/" * 2000])
def test_what_can_be_a_path_has_no_fault(value: str) -> None:
    assert path_fault(value) is None


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (5, "is 5, not the path"),
        (None, "is None, not the path"),
        ([1], "not the path"),
        ("", "is empty"),
        (" ", "is empty"),
        ("a\0b", "zero byte"),
        ("\ud800", "no text"),
        ("a" * 256, "longer than a path"),
        ("ä" * 128, "longer than a path"),
        ("d/" * 3000, "longer than a path"),
    ],
)
def test_what_cannot_is_said(value: object, fault: str) -> None:
    assert fault in (path_fault(value) or "")


@given(st.text() | st.integers() | st.none())
def test_what_has_no_fault_can_be_asked_for(value: object) -> None:
    if path_fault(value) is None:
        assert isinstance(value, str)
        Path("/nowhere" + value).is_file()  # neither of these raises
        assert not Path(f"/nowhere/{value}").is_file() or value.startswith("..")
