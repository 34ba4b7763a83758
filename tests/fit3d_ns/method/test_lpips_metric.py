"""LPIPS is reported where its weights are, and nothing is ever downloaded for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchmetrics.image.lpip as torchmetrics_lpip
import torchvision

from fit3d_ns.common.console import logger
from fit3d_ns.method.lpips_metric import LocalLPIPS, without_lpips_download


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub folder; whoever tries to download fails the test."""

    def refuse(url: str, *_: object, **__: object) -> None:
        raise AssertionError(f"tried to download {url}")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    return tmp_path


@pytest.fixture
def weights(hub: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub folder with (random) weights; the list holds each building of the network."""
    (hub / "checkpoints").mkdir()
    (hub / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    built: list[str] = []
    with torch.device("meta"):  # the classifier's 55 million weights are of no use here
        alexnet = torchvision.models.AlexNet()
    convolutions = alexnet.features.to_empty(device="cpu")
    for parameter in convolutions.parameters():
        torch.nn.init.normal_(parameter, std=0.05)

    def load(net: str, pretrained: bool = False) -> torch.nn.Module:
        built.append(net)
        return convolutions

    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", load)
    return built


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)


def test_without_weights_the_value_is_nan_and_that_is_said_once(hub: Path, log: pytest.LogCaptureFixture) -> None:
    metric = LocalLPIPS(normalize=True)
    assert not metric.available
    for _ in range(3):
        value = metric(*images())
        assert value.shape == ()
        assert bool(value.isnan())
    assert len(log.messages) == 1
    assert "alexnet-owt-7be5be79.pth" in log.messages[0]
    assert str(hub) in log.messages[0]


def test_weights_that_appear_later_are_used_from_then_on(
    hub: Path, weights: list[str], log: pytest.LogCaptureFixture
) -> None:
    file = hub / "checkpoints" / "alexnet-owt-7be5be79.pth"
    file.unlink()
    metric = LocalLPIPS()
    assert bool(metric(*images()).isnan())
    file.touch()
    assert bool(metric(*images()).isfinite())
    assert len(log.messages) == 1


def test_with_weights_the_value_is_torchmetrics(hub: Path, weights: list[str], log: pytest.LogCaptureFixture) -> None:
    first, second = images()
    metric = LocalLPIPS()
    values = [float(metric(first, second)) for _ in range(2)]
    reference = torchmetrics_lpip.LearnedPerceptualImagePatchSimilarity(normalize=True)
    assert values == pytest.approx(2 * [float(reference(first, second))])
    assert values[0] > 1e-4
    assert float(metric(first, first)) == pytest.approx(0, abs=1e-6)
    assert weights == ["alexnet", "alexnet"]  # once for ours, once for the reference
    assert log.messages == []


def test_values_beyond_the_range_are_cut_off_as_a_screen_does(hub: Path, weights: list[str]) -> None:
    first, second = images()
    metric = LocalLPIPS()
    assert float(metric(3 * first - 1, second)) == pytest.approx(float(metric((3 * first - 1).clamp(0, 1), second)))


def test_it_is_no_module_so_that_checkpoints_do_not_hold_its_network(hub: Path) -> None:
    model = torch.nn.Module()
    model.lpips = LocalLPIPS()
    assert not isinstance(model.lpips, torch.nn.Module)
    assert model.state_dict() == {}
    assert list(model.children()) == []


def test_while_active_the_imported_class_is_ours_and_downloads_nothing(hub: Path) -> None:
    original = torchmetrics_lpip.LearnedPerceptualImagePatchSimilarity
    with without_lpips_download():
        # the import that splatfacto has inside populate_modules
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        metric = LearnedPerceptualImagePatchSimilarity(normalize=True)
    assert isinstance(metric, LocalLPIPS)
    assert torchmetrics_lpip.LearnedPerceptualImagePatchSimilarity is original


def test_the_class_is_back_after_an_error() -> None:
    original = torchmetrics_lpip.LearnedPerceptualImagePatchSimilarity
    with pytest.raises(RuntimeError, match="no seed points"), without_lpips_download():
        raise RuntimeError("no seed points")
    assert torchmetrics_lpip.LearnedPerceptualImagePatchSimilarity is original


def test_the_guard_of_these_tests_notices_a_download(hub: Path) -> None:
    with pytest.raises(AssertionError, match="tried to download"):
        torchmetrics_lpip.LearnedPerceptualImagePatchSimilarity(normalize=True)
