"""What the numbers in files of labels and of depth mean, which every data set has its own way to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

VOID = 255
"""Label of pixels that do not count."""


@dataclass(frozen=True)
class LabelCoding:
    """From the numbers in a file to classes."""

    classes: Mapping[int, int] | None = None
    """By the number in the file; several may stand for one class. None: classes are numbered as they are."""
    void: tuple[int, ...] = (VOID,)
    """Numbers of pixels that do not count."""
    others_are_void: bool = False
    """Whether numbers that stand for nothing in this list do not count either; else they are mistakes."""

    def decode(self, values: Array, num_classes: int) -> tuple[Array, int | None]:
        """Class indices uint8 of the shape of the values, `VOID` where void; and the first number that means nothing.

        A number that is both void and a class is void.
        """
        known = {index: index for index in range(num_classes)} if self.classes is None else dict(self.classes)
        classes = known | dict.fromkeys(self.void, VOID)
        found = np.unique(values)
        unknown = [int(number) for number in found if int(number) not in classes]
        table = np.array([classes.get(int(number), VOID) for number in found], np.uint8)
        wrong = None if self.others_are_void or not unknown else unknown[0]
        return table[np.searchsorted(found, values)], wrong


@dataclass(frozen=True)
class DepthCoding:
    """From the numbers in a file to metres."""

    metres: float = 1e-3
    """Per unit; or, of an inverse depth, at 1."""
    inverse: bool = False

    def decode(self, values: Array) -> Array:
        """float32, 0 where nothing is known."""
        values = values.astype(np.float32)
        known = np.isfinite(values) & (values > 0)
        safe = np.where(known, values, 1)
        metres = np.float32(self.metres) / safe if self.inverse else np.float32(self.metres) * safe
        decoded: Array = np.where(known, metres, 0).astype(np.float32)
        return decoded


AS_NUMBERED = LabelCoding()
MILLIMETRES = DepthCoding()


def listed(numbers: Sequence[int], void: tuple[int, ...] = (), others_are_void: bool = False) -> LabelCoding:
    """One number for each class in turn."""
    return LabelCoding({number: index for index, number in enumerate(numbers)}, void, others_are_void)


def from_one(count: int) -> LabelCoding:
    """Classes from 1 on; 0 is void."""
    return listed(range(1, count + 1), void=(0,))
