"""Squeeze-and-excitation of a convolution's own output: W(x) = diag(s(x)) W (arXiv:1709.01507)."""

from dynaconv.families.se.cost import squeeze_excite_costs
from dynaconv.families.se.factored import factored_squeeze_excite
from dynaconv.families.se.kernel import kernel_squeeze_excite, scale_rows
from dynaconv.families.se.reference import (
    ExciteWeights,
    reference_squeeze_excite,
    reference_squeeze_excite_kernel,
)

__all__ = [
    "ExciteWeights",
    "factored_squeeze_excite",
    "kernel_squeeze_excite",
    "reference_squeeze_excite",
    "reference_squeeze_excite_kernel",
    "scale_rows",
    "squeeze_excite_costs",
]
