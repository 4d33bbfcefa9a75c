"""`Step` is declared in Python and in C++; names, order and codes must be equal."""

import re
from pathlib import Path

from dynaconv.families.contract.branch import LENGTH_EPSILON
from dynaconv.families.contract.norms import NORM_EPSILON
from dynaconv.families.kernel_warehouse.reference import EPSILON
from dynaconv.native import steps

HEADER = (Path(steps.__file__).parent / "csrc" / "program.h").read_text()


def codes(enum: str) -> list[str]:
    """Return the names of an enumeration in the order of their values, which start at 0."""
    body = re.search(rf"enum {enum} {{(.*?)}}", HEADER)
    assert body is not None
    pairs = [entry.split("=") for entry in body[1].split(",")]
    assert [int(value) for _, value in pairs] == list(range(len(pairs)))
    return [name.strip().removeprefix("k").removesuffix("B").lower() for name, _ in pairs]


def test_the_fields_are_the_same_in_the_same_order() -> None:
    body = re.search(r"struct Step {(.*?)\n};", HEADER, re.DOTALL)
    assert body is not None
    declared = re.findall(r"std::int64_t ([^;]*);", body[1])
    assert tuple(name.strip() for line in declared for name in line.split(",")) == steps.FIELDS


def test_the_codes_are_the_same() -> None:
    def names(table: dict[str, int]) -> list[str]:
        assert list(table.values()) == list(range(len(table)))
        return [name.replace("_", "") for name in table]

    assert codes("BranchActivation") == names(steps.BRANCH_ACTIVATIONS)
    assert codes("ScaleActivation") == names(steps.SCALE_ACTIVATIONS)
    assert codes("Precision") == names(steps.PRECISIONS)
    # Python has the names of the layers' algorithms, "kernel" and "factored".
    assert codes("Algorithm") == ["auto", "form", "factors"]
    assert list(steps.ALGORITHMS.values()) == [0, 1, 2]
    assert codes("StepKind") == ["dense", "depthwise", "maxpool", "mean", "scale", "norm"]
    assert (steps.DENSE, steps.DEPTHWISE, steps.MAX_POOL, steps.MEAN, steps.SCALE, steps.NORM) == (0, 1, 2, 3, 4, 5)
    assert f"constexpr int kFormat = {steps.FORMAT};" in HEADER


def test_the_small_terms_are_the_same() -> None:
    found = dict(re.findall(r"k(\w+)Epsilon = ([\d.e-]+)f", HEADER))
    want = {"Norm": NORM_EPSILON, "Length": LENGTH_EPSILON, "Shares": EPSILON}
    assert {name: float(value) for name, value in found.items()} == want
