"""A mixture of kernels as plain tensors: checks, the matrices its decompositions work on, the parts of a layer.

A mixture is W(x) = sum_k a_k(x) W_k: the kernels W_k are ``(K, C_out, C_in / groups, k_h, k_w)`` and the attention a(x)
of a batch is ``(B, K)``. The softmax of DY-Conv sums to 1 over k, the sigmoids of CondConv to anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """The kernels of one layer and what it makes of one batch.

    Attributes:
        kernels: (K, C_out, C_in / groups, k_h, k_w).
        attention: (B, K).
        groups: Into how many matrices a kernel is read. 1 for a depthwise layer, whose kernel is one C x k^2 matrix.
    """

    kernels: Tensor
    attention: Tensor
    groups: int


@torch.no_grad()
def layer_mixture(layer: nn.Module, x: Tensor) -> Mixture:
    """The mixture a layer computes for a batch; it serves every layer that stacks K kernels, ours or another's.

    Args:
        layer: With a `weight` of 5 axes, (K, C_out, C_in / groups, k_h, k_w), and `coefficients(x).attention`, (B, K).
        x: The layer's input, (B, C_in, H, W).

    Raises:
        ValueError: The layer is not a mixture of kernels.
    """
    name, weight = type(layer).__name__, getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 5:
        came = f"a `weight` of shape {tuple(weight.shape)}" if isinstance(weight, Tensor) else "no `weight`"
        raise ValueError(
            f"{name} is not a mixture of kernels: that has a `weight` of 5 axes (K, C_out, C_in / groups, k_h, k_w), "
            f"this has {came}. Pass a CondConv2d or a DYConv2d."
        )
    coefficients = getattr(layer, "coefficients", None)
    attention = getattr(coefficients(x), "attention", None) if callable(coefficients) else None
    if not isinstance(attention, Tensor):
        raise ValueError(f"{name} does not answer `coefficients(x).attention`; pass a CondConv2d or a DYConv2d.")
    return Mixture(kernels=weight.detach(), attention=attention.detach(), groups=matrix_groups(layer))


def matrix_groups(layer: nn.Module) -> int:
    """Into how many matrices a kernel of a layer with stacked kernels is read: its groups, but 1 where depthwise."""
    weight: Any = layer.weight
    return int(getattr(layer, "groups", 1)) if weight.shape[2] > 1 else 1


def mix(kernels: Tensor, attention: Tensor) -> Tensor:
    """W(x) = sum_k a_k(x) W_k for every sample, the definition that the decompositions are compared with.

    Args:
        kernels: (K, C_out, C_in / groups, k_h, k_w).
        attention: (B, K).

    Returns:
        (B, C_out, C_in / groups, k_h, k_w).
    """
    kernels = check_kernels(kernels)
    return torch.einsum("bk,koihw->boihw", check_attention(attention, kernels), kernels)


def check_kernels(kernels: Tensor) -> Tensor:
    """The kernels, detached and at least in float32; ValueError for another number of axes and what is not finite."""
    if kernels.dim() != 5:
        hint = " A pointwise kernel has two axes of size 1 at the end: kernels[..., None, None]."
        raise ValueError(
            f"kernels have 5 axes (K, C_out, C_in / groups, k_h, k_w); got {kernels.dim()}, {tuple(kernels.shape)}."
            f"{hint if kernels.dim() == 3 else ''}"
        )
    if kernels.numel() == 0:
        raise ValueError(f"kernels are empty, {tuple(kernels.shape)}; every axis needs a size of at least 1.")
    return _finite("kernels", kernels)


def check_attention(attention: Tensor, kernels: Tensor) -> Tensor:
    """The attention in the kernels' dtype and on their device; ValueError unless it is (B, K), B >= 1, and finite."""
    if attention.dim() != 2 or attention.shape[0] == 0:
        raise ValueError(f"attention is (B, K), one row a sample, at least one; got {tuple(attention.shape)}.")
    if attention.shape[1] != kernels.shape[0]:
        raise ValueError(
            f"attention {tuple(attention.shape)} weights {attention.shape[1]} kernels, but there are "
            f"{kernels.shape[0]}; pass the attention of the same layer."
        )
    return _finite("attention", attention).to(kernels)


def check_groups(kernels: Tensor, groups: int) -> int:
    """The groups; ValueError unless they divide the channels out."""
    channels = kernels.shape[1]
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or channels % groups:
        divisors = ", ".join(str(d) for d in range(1, channels + 1) if channels % d == 0)
        raise ValueError(f"groups={groups!r} does not divide C_out={channels}; use one of {divisors}.")
    return groups


def as_matrices(kernels: Tensor, groups: int) -> Tensor:
    """Kernels (K, C_out, C_in / groups, k_h, k_w) as one matrix a group, (K, groups, M, N).

    M = C_out / groups and N = C_in / groups * k_h * k_w. A depthwise kernel with `groups=1` is
    one C x k^2 matrix, as in DCD's depthwise form.
    """
    return kernels.reshape(kernels.shape[0], groups, kernels.shape[1] // groups, -1)


def relative_error(estimate: Tensor, exact: Tensor) -> float:
    """Frobenius norm of the difference over that of the exact values; 0 where both are zero."""
    return ratio(float((estimate - exact).norm()), float(exact.norm()))


def ratio(part: float, whole: float) -> float:
    """Their quotient, where nothing of nothing is 0."""
    return part / whole if whole > 0 else 0.0 if part == 0 else float("inf")


def _finite(name: str, values: Tensor) -> Tensor:
    if not values.is_floating_point():
        raise ValueError(f"{name} are real numbers; got {values.dtype}. Convert them with .float().")
    wrong = int((~values.isfinite()).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of the {values.numel()} numbers in {name} are NaN or infinite; nothing to decompose."
        )
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))
