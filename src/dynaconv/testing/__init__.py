"""Checks of the contract of dynamic convolutions, for this package's families and those of other packages.

    import pytest
    from dynaconv.testing import CHECKS, cases

    @pytest.mark.parametrize("case", cases(MY_FAMILY, [{}, {"rank": 2}]), ids=str)
    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_contract(check, case):
        check(case)

`check_family` runs all checks without pytest.
"""

from dynaconv.testing import context as context
from dynaconv.testing.cases import GEOMETRIES, Case, cases
from dynaconv.testing.contract import CHECKS, check_family
from dynaconv.testing.tolerance import TOLERANCE, assert_close, assert_close_to_scale

__all__ = [
    "CHECKS",
    "GEOMETRIES",
    "TOLERANCE",
    "Case",
    "assert_close",
    "assert_close_to_scale",
    "cases",
    "check_family",
]
