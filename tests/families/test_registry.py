"""The registry of families: names, aliases, refusals, and a family from outside in the rest of the library."""

import dataclasses
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from torch import nn

from dynaconv.families import DCDConv2d, DCDLinear, Family, SEConv2d, families, family_of, get_family, register_family
from dynaconv.families.family import Coefficient
from tests.messages import refuses


class ToyConv2d(SEConv2d):
    """As another package might have it."""


TOY = Family(
    name="toy",
    title="a toy",
    arxiv="0000.00000",
    citation="@misc{toy}",
    layer=ToyConv2d,
    coefficients={"scale": Coefficient(symbol="t", role="gate", act="plays")},
    kinds=("pointwise",),
    aliases=("plaything",),
)


def test_names_and_aliases() -> None:
    assert [family.name for family in families()] == [
        "condconv",
        "dcd",
        "dyconv",
        "fdconv",
        "kernel_warehouse",
        "odconv",
        "se",
    ]
    assert get_family("squeeze_excite") is get_family("se")
    with refuses(ValueError, "dcdd"):
        get_family("dcdd")


def test_a_layer_knows_its_family_and_a_subclass_is_not_taken_for_it() -> None:
    assert family_of(SEConv2d(3, 4, 1)) is get_family("se")
    assert family_of(DCDLinear(3, 4)) is get_family("dcd")
    assert family_of(ToyConv2d(3, 4, 1)) is None
    assert family_of(nn.Conv2d(3, 4, 1)) is None


@pytest.mark.parametrize("family", [family.name for family in families()])
def test_a_family_has_a_title_and_cites_its_paper(family: str) -> None:
    found = get_family(family)
    assert found.title
    assert found.arxiv in found.citation


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "dcd"},
        {"aliases": ("squeeze_excite",)},
        {"layer": DCDConv2d},
    ],
    ids=["name", "alias", "layer"],
)
def test_what_another_family_has_is_refused(changes: dict[str, Any]) -> None:
    before = families()
    with refuses(ValueError):
        register_family(dataclasses.replace(TOY, **changes))
    assert families() == before


def test_networks_of_a_family_from_outside_are_registered() -> None:
    code = """
    import timm, dynaconv.models
    from tests.families.test_registry import TOY, ToyConv2d
    from dynaconv.families import register_family
    register_family(TOY)
    made = timm.create_model("toy_resnet10", num_classes=2, in_chans=1, stem_stride=2, channels=[4, 8, 8, 8])
    print(sum(isinstance(module, ToyConv2d) for module in made.modules()))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "8"
