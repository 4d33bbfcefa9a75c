"""Convolution with a weighted sum of K kernels, W(x) = sum_k a_k(x) W_k, for given weights a_k(x)."""

from dynaconv.ops.mixture.attentions import Attentions
from dynaconv.ops.mixture.compiled import compiled_mixture, supports_compiled
from dynaconv.ops.mixture.cost import mixture_costs
from dynaconv.ops.mixture.grouped import grouped_mixture
from dynaconv.ops.mixture.kernel import kernel_mixture, mix_kernels
from dynaconv.ops.mixture.mixed import along_axis, mixed_mixture

__all__ = [
    "Attentions",
    "along_axis",
    "compiled_mixture",
    "grouped_mixture",
    "kernel_mixture",
    "mix_kernels",
    "mixed_mixture",
    "mixture_costs",
    "supports_compiled",
]
