"""The page docs/paper-tables.md: its numbers are today's, and what its notes say is true."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from dynaconv.families import ODConv2d
from tests.messages import refuses

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("paper_tables", ROOT / "benchmarks" / "paper_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "paper-tables.md").read_text()


def test_the_parameters_on_the_page_are_todays(script: ModuleType, page: str) -> None:
    shown = re.findall(r"^\| (`\w+`[^|]*?) \| ([\d,]+) \|", page, flags=re.MULTILINE)
    assert shown == [(case.label, f"{script.parameters(case):,}") for case in script.cases()]


def test_published_figures_on_the_page_are_those_of_the_file(script: ModuleType, page: str) -> None:
    shown = re.findall(r"([\d.]+) \[([LOCK])\]", page)
    figures = [case.figure for case in script.cases() if case.figure["top1"]]
    assert shown == [(figure["top1"], figure["source"]) for figure in figures]


def test_every_note_is_explained_and_used(page: str) -> None:
    used = set(re.findall(r"\]\(#(\w+)\)", page))
    assert used == set(re.findall(r"^### ([a-z]+)$", page, flags=re.MULTILINE))


def test_a_difference_without_a_note_is_refused(script: ModuleType) -> None:
    case = next(case for case in script.cases() if case.figure["params"] and not case.figure["notes"])
    done = script.Work(1e6, 1e6, 1e6)
    with refuses(ValueError):
        script.table([(case, 10, done)])


def test_a_page_without_marks_is_refused(script: ModuleType) -> None:
    with refuses(ValueError):
        script.with_tables("no marks", [])


def test_only_the_tables_change(script: ModuleType, page: str) -> None:
    begin, end = script.MARKS
    emptied = script.with_tables(page, [])
    assert (emptied.split(begin)[0], emptied.split(end)[1]) == (page.split(begin)[0], page.split(end)[1])
    assert emptied != page


@pytest.mark.parametrize("network", ["mobilenetv2_100", "resnet18"])
def test_dcds_printed_multiply_adds_are_near_the_fewest(script: ModuleType, network: str) -> None:
    case = next(case for case in script.cases() if (case.network, case.variant) == (network, "dcd published"))
    done = script.work(case)
    assert done.least <= min(done.executed, done.convention)
    assert done.least / 1e6 == pytest.approx(float(case.figure["madds"]), rel=0.015)


@pytest.mark.parametrize(("depth", "printed"), [(50, 3858), (101, 7570)])
def test_the_printed_resnets_shrink_in_the_first_convolution(depth: int, printed: float) -> None:
    model = timm.create_model(f"resnet{depth}", device="meta").eval()
    for stage in (2, 3, 4):
        block = model.get_submodule(f"layer{stage}.0")
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert round(counter.get_total_flops() / 2e6) == printed


def test_odconvs_printed_multiply_adds_grow_by_seven_a_weight() -> None:
    model = timm.create_model("odconv_mobilenetv2_100", device="meta", family_options={"num_kernels": 1})
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, ODConv2d))
    assert 7 * weights / 1e6 == pytest.approx(327.1 - 311.8, abs=0.1)
