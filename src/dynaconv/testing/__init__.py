"""What every family of dynamic convolutions promises, as checks that a package of its own family can run.

    import pytest
    from dynaconv.testing import CHECKS, cases

    @pytest.mark.parametrize("case", cases(MY_FAMILY, [{}, {"rank": 2}]), ids=str)
    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_contract(check, case):
        check(case)

`check_family` runs them all without pytest.
"""

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
