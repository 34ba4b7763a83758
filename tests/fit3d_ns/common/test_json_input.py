"""JSON of others is a value or a ValueError."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fit3d_ns.common.json_input import parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_json_writes_comes_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary() | st.text())
def test_anything_else_is_a_value_error(text: str | bytes) -> None:
    with suppress(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        b"\xff\xfe",
        "[" * 100_000 + "]" * 100_000,
        '"\\ud800"',
        '{"a": ["\\uDFFF"]}',
        '{"\\ud800": 1}',
        "1" + "0" * 5000,  # Python refuses integers of so many digits
    ],
)
def test_what_is_no_json_of_ours_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)


def test_a_pair_of_surrogates_is_a_letter() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


def test_numbers_that_are_none_pass() -> None:
    assert math.isnan(parse_json("NaN"))
    assert parse_json("1e400") == math.inf
