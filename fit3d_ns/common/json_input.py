"""JSON that somebody else may have written, as Python values or a `ValueError`, whatever is wrong with it."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; NaN and Infinity pass, for those who read a number to refuse.

    Args:
        text: bytes are UTF-8.

    Raises:
        ValueError: it is no JSON, no UTF-8, nested too deeply, or holds a text that is no Unicode (a lone surrogate).
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # Surrogates come from escapes alone: text from UTF-8 has none.
    if "\\ud" in text or "\\uD" in text:
        _require_unicode(value)
    return value


def _require_unicode(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("it holds a text that is no Unicode") from None
    elif isinstance(value, list):
        for item in value:
            _require_unicode(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _require_unicode(key)
            _require_unicode(item)
