"""What is said of what was measured."""

from __future__ import annotations

import json
import math

import pytest

from fit3d_ns.judgement.findings import DISAGREEING, UNDERTRAINED, findings_of
from fit3d_ns.judgement.fit import FeatureFit
from fit3d_ns.judgement.judge import Judgement, ViewJudgement, brightness
from fit3d_ns.judgement.left_out import LeftOutView
from fit3d_ns.judgement.poses import FittedPose
from fit3d_ns.machine.finding import Finding

GOOD = FeatureFit(0.2, 0.2)


def view(name: str, fault: str = "", features: float = 0.2, stops: float = 0.0) -> ViewJudgement:
    measured = LeftOutView(features, 0.05, (stops, stops, stops))
    pose = FittedPose(3.0, 0.05, 0.4, 0.1) if fault == "pose" else None
    return ViewJudgement(name, measured, 9.0, stops, pose, fault)


def named(judgement: Judgement) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings_of(judgement)}


@pytest.mark.parametrize(
    ("fit", "wrong"),
    [
        (GOOD, set()),
        (FeatureFit(0.2 * UNDERTRAINED * 1.01, 0.2), {"feature loss"}),
        (FeatureFit(DISAGREEING * 1.01, DISAGREEING * 1.01), {"least squares"}),
    ],
)
def test_loss_and_floor_have_a_finding_each(fit: FeatureFit, wrong: set[str]) -> None:
    found = named(Judgement("room", fit, [view(str(i)) for i in range(9)]))
    assert {name for name, finding in found.items() if finding.fault} == wrong


def test_with_few_views_it_says_so_and_that_is_no_fault() -> None:
    found = named(Judgement("room", GOOD))
    assert set(found) == {"feature loss", "least squares", "views"}
    assert found["views"].problem
    assert not found["views"].fault


def test_the_worst_come_first_and_not_all_are_listed() -> None:
    views = [view(f"{i}.jpg", "disagreement", features=0.5 + 0.1 * i) for i in range(8)]
    problem = named(Judgement("room", GOOD, views))["disagreement"].problem
    assert problem.startswith("7.jpg (1.20")
    assert problem.index("7.jpg") < problem.index("3.jpg")
    assert "2.jpg" not in problem
    assert "3 more" in problem


def test_a_photo_stands_under_its_own_fault_with_its_figure() -> None:
    views = [view("a", "pose"), view("b", "exposure", stops=-1.0), *(view(str(i)) for i in range(7))]
    found = named(Judgement("room", GOOD, views))
    assert "a (fits 5.0 % of the width and 3.0 degrees away" in found["poses"].problem
    assert "b (1.0 stops darker)" in found["exposure"].problem
    assert found["disagreement"].problem == ""
    assert all(finding.problem == "" or finding.problem.endswith(".") for finding in found.values())


def test_brightness_is_of_the_channel_that_is_furthest_from_the_other_views() -> None:
    stops = [(0.1, 0.1, 0.1)] * 5 + [(0.1, -0.5, 0.3), (math.nan, math.nan, math.nan)]
    found = brightness([LeftOutView(0.2, 0.1, each) for each in stops])
    assert found == pytest.approx([0, 0, 0, 0, 0, -0.6, 0])


def test_what_is_unknown_is_null_in_json() -> None:
    unknown = ViewJudgement("a", LeftOutView(math.nan, 0.1, (math.nan, 0.0, 0.0)), math.nan, 0.0)
    text = json.dumps(Judgement("room", GOOD, [unknown]).as_dict(), allow_nan=False)
    assert json.loads(text)["views"][0]["measured"]["features"] is None
