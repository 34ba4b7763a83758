"""Two arms in one figure, scene by scene: what was compared, what came out, and the words for it.

The unit is the scene: frames of one room repeat each other, and a head that suits a room suits all of its frames. Only
with `MIN_SCENES` scenes or more is there a test, and only then is there talk of significance; with fewer the
differences by scene are all that is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Task = Literal[
    "segmentation",
    "depth",
    "depth_patches",
    "normals",
    "nearest_neighbours",
    "nearest_neighbours_across",
    "consistency",
    "matching",
]
"""The fields of `ProbeResults` that hold figures."""
TRAINED: tuple[Task, ...] = ("segmentation", "depth", "depth_patches", "normals")
"""Those that train a head, by seed."""
Unit = Literal["%", "m", "°"]
"""%: shares in 0..1, written times 100, their differences in points. m: metres. °: degrees."""
Verdict = Literal["better", "worse", "unclear", "better-everywhere", "worse-everywhere", "mixed", "equal", "untested"]
"""better, worse, unclear: the test's, with `MIN_SCENES` scenes or more. With fewer: better or worse in every scene,
mixed, or equal in all. untested: no scene has the figure."""

MIN_SCENES = 5
LEVEL = 0.05
MISSING = "–"


@dataclass(frozen=True)
class SceneFigures:
    """The figure of both arms in one test scene, means over seeds."""

    scene: str
    before: float
    """Of the baseline, in 0..1, metres or degrees."""
    after: float
    frames: int
    """Images (or pairs of views) that were counted."""

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """An arm against a baseline in one figure, by scene. All figures are in 0..1, metres or degrees, see `unit`."""

    task: Task
    metric: str
    """The figure as the tables call it, e.g. "mIoU"."""
    unit: Unit
    higher_is_better: bool
    arm: str
    baseline: str
    before: float
    """The baseline's figure: the mean over scenes of means over seeds, as it is shown everywhere."""
    after: float
    """The arm's."""
    difference: float
    """Arm minus baseline."""
    confidence_low: float
    """95 % interval of the mean difference over scenes; NaN with fewer than `MIN_SCENES` scenes, as both p-values."""
    confidence_high: float
    p_value: float
    """Two-sided, of this comparison alone; see `significance`."""
    p_holm: float
    """After Holm's correction over all comparisons of the table; this one decides."""
    scenes: list[SceneFigures]
    seeds: int
    """Probe seeds; 0 where nothing is trained."""

    @property
    def frames(self) -> int:
        """Images (or pairs of views) of all scenes."""
        return sum(scene.frames for scene in self.scenes)

    @property
    def tested(self) -> bool:
        """Whether there are scenes enough for a test."""
        return math.isfinite(self.p_holm)

    @property
    def verdict(self) -> Verdict:
        """The test's where there is one, else whether all scenes agree."""
        if not self.scenes:
            return "untested"
        if self.tested:
            if self.p_holm >= LEVEL or self.difference == 0:
                return "unclear"
            return "better" if (self.difference > 0) == self.higher_is_better else "worse"
        better, worse = self._counts()
        if better == worse == 0:
            return "equal"
        if better == len(self.scenes):
            return "better-everywhere"
        return "worse-everywhere" if worse == len(self.scenes) else "mixed"

    @property
    def words(self) -> str:
        """The verdict: "significantly better", or without a test "better in 2 of 3 scenes"."""
        found = self.verdict
        if found in _TESTED_WORDS:
            return _TESTED_WORDS[found]
        if found == "untested":
            return "nothing to compare"
        better, worse = self._counts()
        total = f"{len(self.scenes)} scene{'s' if len(self.scenes) != 1 else ''}"
        if found == "equal":
            return f"equal in {len(self.scenes)} of {total}"
        if better == 0:
            return f"worse in {worse} of {total}"
        return f"better in {better} of {total}"

    @property
    def statement(self) -> str:
        """Everything in one line."""
        head = f"{self.metric}: {self.arm} against {self.baseline}"
        if not self.scenes:
            return f"{head}: nothing to compare."
        figures = self.figures.removeprefix(self.metric).lstrip(" :")
        seeds = f", {self.seeds} seed{'s' if self.seeds != 1 else ''}" if self.seeds else ""
        counted = f"{self.frames} {'pairs of views' if self.task in ('consistency', 'matching') else 'images'}{seeds}"
        if not self.tested:
            return f"{head} {self.words}: {self.by_scene} ({figures}; {counted})."
        return (
            f"{head} {self.write_difference(self.difference)} ({figures}; {self.interval}, {self.p_words}; "
            f"{len(self.scenes)} scenes, {counted}): {self.words}."
        )

    @property
    def figures(self) -> str:
        """E.g. "mIoU 39.4 → 41.9 %"."""
        colon = ":" if self.metric.endswith("°") else ""
        return f"{self.metric}{colon} {self.write(self.before)} → {self.write(self.after)} {self.unit}"

    @property
    def by_scene(self) -> str:
        """E.g. "room_08 +1.2, room_09 −0.3 points"."""
        each = [f"{scene.scene} {self.write_signed(scene.difference)}" for scene in self.scenes]
        return f"{', '.join(each)} {self.difference_unit}"

    @property
    def interval(self) -> str:
        """E.g. "95 % interval +0.3 to +2.1"."""
        return f"95 % interval {self.write_signed(self.confidence_low)} to {self.write_signed(self.confidence_high)}"

    @property
    def p_words(self) -> str:
        """Both p-values."""
        return f"{_p(self.p_value)}, {_p(self.p_holm).removeprefix('p ').removeprefix('= ')} after Holm"

    def write(self, value: float) -> str:
        """A figure without its unit."""
        return number(self._scale * value, self._decimals)

    def write_difference(self, value: float) -> str:
        """A difference with its unit: "+2.5 points", "−0.031 m"."""
        return f"{self.write_signed(value)} {self.difference_unit}"

    def write_signed(self, value: float) -> str:
        """A difference without its unit."""
        decimals = self._decimals + (1 if self.unit == "%" and abs(self._scale * value) < 0.1 else 0)
        return number(self._scale * value, decimals, signed=True)

    @property
    def difference_unit(self) -> str:
        """What differences are in."""
        return "points" if self.unit == "%" else self.unit

    @property
    def _scale(self) -> float:
        return 100.0 if self.unit == "%" else 1.0

    @property
    def _decimals(self) -> int:
        return {"%": 1, "m": 3, "°": 2}[self.unit]

    def _counts(self) -> tuple[int, int]:
        """In how many scenes the arm is better and in how many worse."""
        sign = 1 if self.higher_is_better else -1
        gains = [sign * scene.difference for scene in self.scenes]
        return sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)


_TESTED_WORDS: dict[Verdict, str] = {
    "better": "significantly better",
    "worse": "significantly worse",
    "unclear": "no significant difference",
}


def number(value: float, decimals: int, signed: bool = False) -> str:
    """A number with a true minus sign; a dash if it is NaN or infinite."""
    if not math.isfinite(value):
        return MISSING
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {number(value, 3)}"
