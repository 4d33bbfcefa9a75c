"""Parameter counts beside the figures that papers print for the same networks.

Two things stand between a count and a printed figure, and the tables below say where which applies:

- The unit. Li et al. (arXiv:2103.08756) print 11.1M for ResNet-18, whose 11,689,512 parameters are 11.15 * 2**20. Their
  other figures for ResNets, and that of DCD's MobileNetV2 x1.0, agree in this unit alone; the rest are in millions.
- The classifier. CondConv's published networks mix its weights as well, which are 1,281,000 an expert. Ours keep the
  classifier static in every family, so that it can be exchanged like any network's.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import timm

from dynaconv.families import CondConv2d
from tests.helpers import count

MILLION = 10**6
MEBI = 2**20
WITHIN = 0.03


def parameters(name: str, options: Mapping[str, Any] | None = None) -> int:
    return count(timm.create_model(name, device="meta", family_options=options))


def dynamic_classifier(num_experts: int = 8) -> int:
    """What a classifier of several experts adds to a MobileNetV2 with a static one."""
    layer = CondConv2d(1280, 1000, 1, device="meta", num_experts=num_experts)
    return count(layer) - 1_281_000


@pytest.mark.parametrize(
    ("name", "printed", "unit"),
    [
        ("static_mobilenetv2_100", 3.5, MILLION),
        ("static_mobilenetv2_050", 2.0, MILLION),
        ("dyconv_mobilenetv2_100", 11.1, MILLION),
        ("dyconv_mobilenetv2_075", 7.0, MILLION),
        ("dyconv_mobilenetv2_050", 4.0, MILLION),
        ("dcd_mobilenetv2_100_published", 5.5, MEBI),
        ("dcd_mobilenetv2_050_published", 3.1, MILLION),
        ("static_resnet18", 11.1, MEBI),
        ("dyconv_resnet10", 18.6, MEBI),
        ("dyconv_resnet18", 42.7, MEBI),
        ("dcd_resnet18_published", 14.0, MEBI),
    ],
)
def test_a_network_has_the_published_size(name: str, printed: float, unit: int) -> None:
    assert parameters(name) / unit == pytest.approx(printed, rel=WITHIN)


@pytest.mark.parametrize(("width", "printed"), [("100", 27.5), ("050", 15.5)])
def test_condconv_has_the_published_size_with_a_classifier_of_experts(width: str, printed: float) -> None:
    ours = parameters(f"condconv_mobilenetv2_{width}")
    assert ours / MILLION < (1 - WITHIN) * printed
    assert (ours + dynamic_classifier()) / MILLION == pytest.approx(printed, rel=WITHIN)


def test_a_classifier_of_experts_adds_seven_classifiers_and_its_routing() -> None:
    assert dynamic_classifier() == 7 * 1_281_000 + 8 * 1281


def test_the_unit_of_the_resnets_is_not_a_million() -> None:
    """timm's own ResNet-18, which leaves no doubt about what is counted."""
    theirs = count(timm.create_model("resnet18", device="meta"))
    assert theirs / MEBI == pytest.approx(11.1, abs=0.05)
    assert theirs / MILLION > 11.1 * (1 + WITHIN)


@pytest.mark.parametrize(
    ("network", "num_kernels", "printed"),
    [
        ("mobilenetv2_100", 1, "4.94"),
        ("mobilenetv2_100", 4, "11.51"),
        ("mobilenetv2_075", 1, "3.51"),
        ("mobilenetv2_075", 4, "7.50"),
        ("mobilenetv2_050", 1, "2.43"),
        ("mobilenetv2_050", 4, "4.44"),
        ("resnet18", 1, "11.94"),
        ("resnet18", 4, "44.90"),
        ("resnet50", 1, "28.64"),
        ("resnet50", 4, "90.67"),
        ("resnet101", 1, "50.82"),
        ("resnet101", 2, "90.44"),
    ],
)
def test_odconv_has_the_published_size_to_the_last_digit(network: str, num_kernels: int, printed: str) -> None:
    ours = parameters(f"odconv_{network}", {"num_kernels": num_kernels})
    assert f"{ours / MILLION:.2f}" == printed


@pytest.mark.parametrize("width", ["100", "050"])
def test_families_are_ordered_as_published(width: str) -> None:
    families = ("static_{}", "dcd_{}", "dcd_{}_published", "dyconv_{}", "condconv_{}")
    sizes = [parameters(family.format(f"mobilenetv2_{width}")) for family in families]
    assert sizes == sorted(sizes)


def test_resnets_are_ordered_as_published() -> None:
    sizes = [parameters(name) for name in ("static_resnet18", "dcd_resnet18", "dcd_resnet18_published")]
    assert sizes == sorted(sizes)
    assert sizes[-1] < parameters("dyconv_resnet18") < parameters("condconv_resnet18")
