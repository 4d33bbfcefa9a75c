"""Mixtures of kernels as plain tensors: extraction from a layer, argument checks, conversion to matrices.

A mixture is W(x) = sum_k a_k(x) W_k: the kernels W_k are ``(K, C_out, C_in / groups, k_h, k_w)`` and the attention a(x)
of a batch is ``(B, K)``. The softmax of DY-Conv sums to 1 over k; the sum of CondConv's sigmoids is not fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import check_type, received


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """The kernels of one layer and its attention for one batch.

    Attributes:
        kernels: (K, C_out, C_in / groups, k_h, k_w).
        attention: (B, K).
        groups: Number of matrices per kernel; 1 for a depthwise layer, whose kernel is one C x k^2 matrix.
    """

    kernels: Tensor
    attention: Tensor
    groups: int


@torch.no_grad()
def layer_mixture(layer: nn.Module, x: Tensor) -> Mixture:
    """Return the mixture that a layer computes for a batch, for any layer with K stacked kernels.

    Args:
        layer: A layer with a `weight` of 5 axes, (K, C_out, C_in / groups, k_h, k_w), and with
            `coefficients(x).attention`, (B, K).
        x: The layer's input, (B, C_in, H, W).

    Raises:
        ValueError: The layer is not a mixture of kernels, or adds them to a static kernel.
    """
    name, weight = type(layer).__name__, getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 5:
        found = f"a `weight` of shape {tuple(weight.shape)}" if isinstance(weight, Tensor) else "no `weight`"
        raise ValueError(
            f"{name} is not a mixture of kernels: it has {found}, but a mixture has a `weight` of 5 axes "
            "(K, C_out, C_in / groups, k_h, k_w). Pass a CondConv2d or a DYConv2d."
        )
    coefficients = getattr(layer, "coefficients", None)
    attention = getattr(coefficients(x), "attention", None) if callable(coefficients) else None
    if not isinstance(attention, Tensor):
        raise ValueError(f"{name} does not provide `coefficients(x).attention`; pass a CondConv2d or a DYConv2d.")
    if getattr(layer, "residual", False):
        raise ValueError(f"this {name} adds its kernels to a static one; pass a layer without residual=True.")
    return Mixture(kernels=weight.detach(), attention=attention.detach(), groups=matrix_groups(layer))


def matrix_groups(layer: nn.Module) -> int:
    """Return the number of matrices per kernel of a layer with stacked kernels: its groups, or 1 if depthwise."""
    weight: Any = layer.weight
    return int(getattr(layer, "groups", 1)) if weight.shape[2] > 1 else 1


def mix(kernels: Tensor, attention: Tensor) -> Tensor:
    """Return W(x) = sum_k a_k(x) W_k for every sample. The decompositions are compared with this definition.

    Args:
        kernels: (K, C_out, C_in / groups, k_h, k_w).
        attention: (B, K).

    Returns:
        (B, C_out, C_in / groups, k_h, k_w).
    """
    kernels = check_kernels(kernels)
    return torch.einsum("bk,koihw->boihw", check_attention(attention, kernels), kernels)


def check_kernels(kernels: Tensor) -> Tensor:
    """Return the kernels, detached and at least in float32. Raise ValueError unless they have 5 axes and are finite."""
    check_type("kernels", kernels, Tensor)
    if kernels.dim() != 5:
        hint = " For pointwise kernels append two axes of size 1: kernels[..., None, None]."
        raise ValueError(
            "kernels must have 5 axes (K, C_out, C_in / groups, k_h, k_w); "
            f"got {kernels.dim()}, {tuple(kernels.shape)}.{hint if kernels.dim() == 3 else ''}"
        )
    if kernels.numel() == 0:
        raise ValueError(
            f"kernels of shape {tuple(kernels.shape)} are empty; every axis must have a size of at least 1."
        )
    return _check_finite("kernels", kernels)


def check_attention(attention: Tensor, kernels: Tensor) -> Tensor:
    """Return the attention in the kernels' dtype and on their device; ValueError unless it is (B, K) and finite."""
    check_type("attention", attention, Tensor)
    if attention.dim() != 2 or attention.shape[0] == 0:
        raise ValueError(
            f"attention must be (B, K), one row per sample and at least one row; got {tuple(attention.shape)}."
        )
    if attention.shape[1] != kernels.shape[0]:
        raise ValueError(
            f"attention {tuple(attention.shape)} weights {attention.shape[1]} kernels, but there are "
            f"{kernels.shape[0]}; pass the attention of the same layer."
        )
    return _check_finite("attention", attention).to(kernels)


def check_groups(kernels: Tensor, groups: int) -> int:
    """Return `groups`. Raise ValueError unless it divides C_out."""
    channels = kernels.shape[1]
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or channels % groups:
        divisors = ", ".join(str(d) for d in range(1, channels + 1) if channels % d == 0)
        raise ValueError(f"groups={received(groups)} does not divide C_out={channels}; use one of {divisors}.")
    return groups


def as_matrices(kernels: Tensor, groups: int) -> Tensor:
    """Reshape kernels (K, C_out, C_in / groups, k_h, k_w) to one matrix per group, (K, groups, M, N).

    M = C_out / groups and N = C_in / groups * k_h * k_w. A depthwise kernel with `groups=1` is one C x k^2 matrix, as
    in DCD's depthwise form.
    """
    return kernels.reshape(kernels.shape[0], groups, kernels.shape[1] // groups, -1)


def relative_error(estimate: Tensor, reference: Tensor) -> float:
    """Return the Frobenius norm of estimate - reference divided by that of reference; 0 if both are zero."""
    return ratio(float((estimate - reference).norm()), float(reference.norm()))


def ratio(part: float, whole: float) -> float:
    """Return part / whole; 0 if both are 0, and infinity if only `whole` is 0."""
    return part / whole if whole > 0 else 0.0 if part == 0 else float("inf")


def _check_finite(name: str, values: Tensor) -> Tensor:
    if not values.is_floating_point():
        raise ValueError(f"{name} must have a floating-point dtype; got {values.dtype}. Convert with .float().")
    num_invalid = int((~values.isfinite()).sum())
    if num_invalid:
        raise ValueError(
            f"{num_invalid} of the {values.numel()} numbers in {name} are NaN or infinite; pass finite numbers."
        )
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))
