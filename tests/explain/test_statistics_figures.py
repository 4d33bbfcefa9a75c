from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.explain.drawn import assert_drawn
from tests.helpers import LAYERS
from tests.messages import refuses
from torch import Tensor, nn

from dynaconv.explain.figures import class_coefficients
from dynaconv.explain.statistics import NetworkStatistics, collect_statistics
from dynaconv.explain.statistics_figures import coefficients_by_depth, kernel_usage, suppression_scatter
from dynaconv.explain.suppression import Suppression, measure_suppression
from dynaconv.families import CondConv2d, DCDConv2d, DYConv2d

NAMES = ("shirt", "trouser", "bag")


def _network(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(12, 8, 5, 5), torch.arange(12) % 3


def _statistics(*layers: nn.Module) -> NetworkStatistics:
    return collect_statistics(_network(*layers), [_batch()], NAMES)


def _suppression(*layers: nn.Module) -> Suppression:
    return measure_suppression(_network(*layers), [_batch()])


def test_the_use_of_kernels_is_drawn_with_the_numbers(tmp_path: Path) -> None:
    statistics = _statistics(DYConv2d(8, 8, 1), DYConv2d(8, 8, 3, num_kernels=2), CondConv2d(8, 8, 1, num_experts=3))
    figure = kernel_usage(statistics)
    assert_drawn(figure, tmp_path / "usage.png")
    use = statistics.layers[1].kernels
    assert use is not None
    written = [text.get_text() for text in figure.axes[0].texts]
    assert len(written) == 4 + 2 + 3
    assert written[4:6] == [f"{float(share):.2f}" for share in use.usage]
    (entropies,) = (line.get_xdata() for line in figure.axes[1].get_lines() if "averaged" in str(line.get_label()))
    assert float(entropies[1]) == use.entropy


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_every_family_is_drawn_by_depth_and_by_class(family: str, tmp_path: Path) -> None:
    statistics = _statistics(LAYERS[family](8, 8, 3, padding=1), LAYERS[family](8, 8, 1))
    assert_drawn(coefficients_by_depth(statistics), tmp_path / "depth.png")
    figure = class_coefficients([layer.coefficients for layer in statistics.layers], NAMES)
    assert_drawn(figure, tmp_path / "classes.png")
    titles = [axes.get_title(loc="left") for axes in figure.axes] + [
        str(panel.get_suptitle()) for panel in figure.subfigs
    ]
    said = " ".join(titles)
    opening = {
        "condconv": "π weights each kernel",
        "dyconv": "π weights each kernel",
        "dcd": "Φ mixes the 4 latent channels",
        "odconv": "Attention to channels in",
        "se": "s scales each output channel",
    }
    assert opening.get(family, "") in said


def test_suppression_of_two_networks_side_by_side(tmp_path: Path) -> None:
    found = {
        "DY-Conv": _suppression(DYConv2d(8, 8, 1), DYConv2d(8, 8, 3)),
        "DCD": _suppression(DCDConv2d(8, 8, 1, latent_dim=4), DCDConv2d(8, 8, 3)),
    }
    figure = suppression_scatter(found)
    assert_drawn(figure, tmp_path / "suppression.png")
    panels = figure.axes[:3]
    assert [axes.get_title(loc="left").splitlines()[0] for axes in panels] == ["DY-Conv", "DCD", "DCD"]
    assert f"{found['DY-Conv'].average('own_correlation'):+.2f}" in panels[0].get_title(loc="left")
    assert f"{found['DCD'].average('correlation'):+.2f}" in panels[2].get_title(loc="left")
    assert sum(len(line.get_xdata()) for line in panels[1].get_lines()) == 2 * (4 + 4)  # type: ignore[arg-type]


def test_a_network_that_gets_no_gradient_is_drawn_as_such(tmp_path: Path) -> None:
    class Deaf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0

    figure = suppression_scatter({"deaf": _suppression(DYConv2d(8, 8, 1), Deaf())})
    assert any("no gradient" in text.get_text() for text in figure.axes[0].texts)
    assert_drawn(figure, tmp_path / "deaf.png")


def test_what_has_nothing_to_show_is_refused() -> None:
    with refuses(ValueError):
        kernel_usage(_statistics(DCDConv2d(8, 8, 1)))
    with refuses(ValueError, "networks"):
        suppression_scatter({})
