"""The table of benchmarks.rooms says what the results say."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest

from benchmarks.rooms_table import Probe, write_table
from tests.fit3d_finetune.report.samples import compared, make_results


def test_every_arm_is_compared_with_the_original_and_no_place_of_this_machine_is_named(tmp_path: Path) -> None:
    results = make_results(train_data=[f"{tmp_path}/room_00"], test_data=[f"{tmp_path}/room_08"])
    streets = compared(results, depth={}, nearest_neighbours={}, consistency={})
    probes = []
    for name, found in (("rooms", results), ("CamVid", streets)):
        found.save(tmp_path / f"{name}.json")
        probes.append(Probe("block 9", "A", name, tmp_path / f"{name}.json"))
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    (metrics / "room_00.json").write_text(
        json.dumps({"results": {"psnr": 29.018, "ssim": 0.9, "feature_cosine": 0.794}})
    )
    write_table(tmp_path / "rooms.md", probes, metrics)
    text = (tmp_path / "rooms.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    changes = {(row[2], row[3]): row[4:] for row in rows if row[0] == "block 9"}
    assert {arm for _, arm in changes} == {arm.name for arm in results.arms[1:]}
    both = "original + fine-tuned"
    before, after = (mean(results.segmentation[arm].miou) for arm in ("original", both))
    assert changes["rooms", both][0] == f"{100 * (after - before):+.1f}"
    before, after = (mean(results.depth[arm].rmse) for arm in ("original", both))
    assert changes["rooms", both][1] == f"{100 * (after / before - 1):+.1f} %"
    before, after = (results.consistency[arm].recall[2] for arm in ("original", both))
    assert float(changes["rooms", both][3].removeprefix("x ")) == pytest.approx(after / before, abs=0.006)
    assert changes["CamVid", both][1:] == ["-", "-", "-"]
    assert ["room_00", "29.02", "0.900", "0.794"] in rows
    written = json.loads((tmp_path / "rooms.json").read_text())
    assert written[0]["results"]["test_data"] == ["room_08"]
    assert str(tmp_path) not in text + (tmp_path / "rooms.json").read_text()
