"""Reading JSON that somebody else may have written: every value is checked where it is read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fit3d_ns.common.errors import InputError
from fit3d_ns.common.paths import path_fault

LARGEST_INTEGER = 2**53
"""Beyond it JSON's numbers are not exact."""
_LONGEST = 80

Array = np.ndarray[Any, np.dtype[Any]]


class JsonObject:
    """Typed access to a JSON object; every failure names the file and the field."""

    def __init__(self, source: Path | str, place: str, data: Any, remedy: str) -> None:
        self.source, self.place, self.remedy = source, place, remedy
        if not isinstance(data, Mapping):
            raise self.fault("", "is not an object")
        self.data = data

    def fault(self, key: str, complaint: str) -> InputError:
        name = f"{self.place}.{key}".strip(".")
        where = f"{self.source}: {name!r}" if name else f"{self.source}"
        return InputError(f"{where} {complaint}; {self.remedy}.")

    def _get(self, key: str) -> Any:
        if key not in self.data:
            raise self.fault(key, "is missing")
        return self.data[key]

    def child(self, key: str) -> JsonObject:
        return JsonObject(self.source, f"{self.place}.{key}".strip("."), self._get(key), self.remedy)

    def children(self, key: str) -> list[JsonObject]:
        values = self._get(key)
        if not isinstance(values, list):
            raise self.fault(key, "is not a list")
        return [JsonObject(self.source, f"{key}[{i}]", value, self.remedy) for i, value in enumerate(values)]

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise self.fault(key, f"is {_shown(value)}, not a text")
        return value

    def path(self, key: str) -> str:
        value: str = self._get(key)
        if fault := path_fault(value):
            raise self.fault(key, fault)
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> Any:
        value = self._get(key)
        if value not in allowed:
            raise self.fault(key, f"is {_shown(value)}, not one of {', '.join(allowed)}")
        return value

    def hash(self, key: str) -> str:
        value = self.text(key)
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise self.fault(key, "is not a SHA-256 in hexadecimal")
        return value

    def integer(self, key: str, minimum: int | None = 1) -> int:
        value = self._get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and abs(value) > LARGEST_INTEGER:
            raise self.fault(key, f"is {_shown(value)}, too large a number")
        if not whole or (minimum is not None and value < minimum):
            bound = "" if minimum is None else f" of at least {minimum}"
            raise self.fault(key, f"is {_shown(value)}, not an integer{bound}")
        return value

    def whole(self, key: str, minimum: int | None = 1) -> int | None:
        """An integer, or null."""
        return None if self._get(key) is None else self.integer(key, minimum)

    def positive(self, key: str) -> float:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            raise self.fault(key, f"is {_shown(value)}, not a positive number")
        return float(value)

    def numbers(self, key: str, *shape: int) -> Array:
        try:
            array = np.array(self._get(key), dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            array = np.empty(0)
        if array.shape != shape or not np.isfinite(array).all():
            raise self.fault(key, f"is not {'x'.join(map(str, shape))} finite numbers")
        return array

    def triple(self, key: str) -> tuple[float, float, float]:
        a, b, c = self.numbers(key, 3).tolist()
        return a, b, c


def _shown(value: Any) -> str:
    """For messages: a value, however large."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "an integer of very many digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
