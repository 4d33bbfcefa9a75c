"""Measurement of the paper's second argument: small coefficients reduce the gradient of the directions they scale.

In vanilla dynamic convolution, W(x) = W_mean + U Pi(x) S V^T. The columns u_i and v_i of kernel k appear only in the
term pi_k(x) s_i u_i v_i^T, so the gradient of both is multiplied by pi_k(x) s_i. If this coefficient is small,
attention slows down the learning of the pair. In DCD, all L x L entries of Phi(x) couple the columns of P and Q: row j
of Phi couples p_j to every q_l. The coefficients reduce the gradient of p_j only if the whole row is small, whatever
its own entry Phi_jj is.

Reference: Li et al., ICLR 2021, arXiv:2103.08756v1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.conversion.example import eval_mode
from dynaconv.errors import check_type
from dynaconv.explain._suppression_probes import MixtureProbe, Probe, probe_for
from dynaconv.explain.coefficients import observed_coefficients
from dynaconv.explain.decomposition import SVDForm
from dynaconv.explain.movement import labelled
from dynaconv.families.contract.checks import check_module
from dynaconv.measure.modules import is_dynamic

Loss = Callable[[Tensor, Tensor], Tensor]


class NoFactorsError(ValueError):
    """The network has no layer with factors that coefficients scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """Coefficients and gradients of the D columns of one factor, each of unit length.

    Attributes:
        coefficients: Size of the coefficient of each column, averaged over the samples: |a_k| s_i in a mixture, the
            norm of the column's row or column of Phi in DCD.
        own: The same for the coefficient that couples a column to its own partner: |a_k| s_i again, or |Phi_jj|.
        gradients: Norm of the loss's gradient with respect to each column, averaged over the batches.
    """

    coefficients: Tensor
    own: Tensor
    gradients: Tensor

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation of gradients and coefficients."""
        return rank_correlation(self.coefficients, self.gradients)

    @property
    def own_correlation(self) -> float:
        """Spearman's rank correlation of gradients and own coefficients."""
        return rank_correlation(self.own, self.gradients)

    @property
    def gradient_ratio(self) -> float:
        """Mean gradient of the columns in the lowest quarter of own coefficients over that of the highest quarter."""
        return quartile_ratio(self.own, self.gradients)

    @property
    def coefficient_ratio(self) -> float:
        """The same ratio for the mean own coefficients of these quarters."""
        return quartile_ratio(self.own, self.own)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerSuppression:
    """Suppression measures of one layer, averaged over the output and the input factor.

    Attributes:
        name: Dotted path in the model.
        kind: Class name.
        method: `mixture` or `dcd`.
        outputs: Columns of U or P.
        inputs: Columns of V or Q (of R in DCD's depthwise form).
        attention: Mean of |a_k| over the samples, (K,); None for DCD.
        column_attention: Mean of |a_k| for the kernel of each column, (D,); None for DCD.
        kernel_gradients: Norm of the gradient of each W_k, averaged over the batches, (K,); None for DCD.
    """

    name: str
    kind: str
    method: str
    outputs: Columns
    inputs: Columns
    attention: Tensor | None
    column_attention: Tensor | None
    kernel_gradients: Tensor | None

    @property
    def correlation(self) -> float:
        """Mean of `Columns.correlation` over both factors."""
        return (self.outputs.correlation + self.inputs.correlation) / 2

    @property
    def own_correlation(self) -> float:
        """Mean of `Columns.own_correlation` over both factors; equal to `correlation` for a mixture."""
        return (self.outputs.own_correlation + self.inputs.own_correlation) / 2

    @property
    def attention_correlation(self) -> float | None:
        """Spearman's rank correlation of the columns' gradients with the attention alone, without s_i."""
        if self.column_attention is None:
            return None
        factors = (self.outputs, self.inputs)
        return sum(rank_correlation(self.column_attention, factor.gradients) for factor in factors) / 2

    @property
    def gradient_ratio(self) -> float:
        """Geometric mean of `Columns.gradient_ratio` over both factors."""
        return _geometric_mean(self.outputs.gradient_ratio, self.inputs.gradient_ratio)

    @property
    def coefficient_ratio(self) -> float:
        """Geometric mean of `Columns.coefficient_ratio` over both factors."""
        return _geometric_mean(self.outputs.coefficient_ratio, self.inputs.coefficient_ratio)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; a number that is not defined is None."""
        return {
            "name": self.name,
            "kind": self.kind,
            "method": self.method,
            "columns": len(self.outputs.own),
            **{key: finite_or_none(getattr(self, key)) for key in MEASURES},
            "attention": None if self.attention is None else self.attention.tolist(),
            "kernel_gradients": None if self.kernel_gradients is None else self.kernel_gradients.tolist(),
        }


MEASURES = ("correlation", "own_correlation", "attention_correlation", "gradient_ratio", "coefficient_ratio")


@dataclass(frozen=True, kw_only=True, eq=False)
class Suppression:
    """Suppression measures of a network.

    Attributes:
        layers: Measures of the layers, in order of registration.
        skipped: Reasons why dynamic layers are not covered, by layer name.
        images: Number of images.
        batches: Number of batches; each gives one gradient.
    """

    layers: tuple[LayerSuppression, ...]
    skipped: Mapping[str, str]
    images: int
    batches: int

    def average(self, key: str) -> float | None:
        """Return the mean of a measure over the layers that define it, geometric for ratios; None if no layer does."""
        values = [value for layer in self.layers if (value := finite_or_none(getattr(layer, key))) is not None]
        if not values:
            return None
        return _geometric_mean(*values) if key.endswith("ratio") else sum(values) / len(values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "images": self.images,
            "batches": self.batches,
            **{key: self.average(key) for key in MEASURES},
            "layers": [layer.to_dict() for layer in self.layers],
            "skipped": dict(self.skipped),
        }


def measure_suppression(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forms: Mapping[str, SVDForm] | None = None,
    loss: Loss = F.cross_entropy,
    max_batches: int | None = None,
) -> Suppression:
    """Measure gradient and coefficient of every column of the factors over a data set.

    Let G_b be the gradient of a batch's loss with respect to the kernel W(x_b) of sample b, reshaped to a matrix. By
    the chain rule, the gradients of the columns are

    - in a mixture, with S and the attention fixed: dL/du_i = s_i sum_b a_k(x_b) G_b v_i, and dL/dv_i with G_b^T u_i;
    - in DCD: dL/dp_j = sum_b G_b Q Phi(x_b)^T e_j, and dL/dq_j = sum_b G_b^T P Phi(x_b) e_j.

    With `weight_norm` of `DCDConv2d`, the gradients have no component along P or Q as a whole, because their norms
    have no effect. Columns have unit length: U and V have it by definition, and Phi takes over the lengths of the
    columns of P, Q and R. This does not change W(x) and makes sizes comparable. The network runs in eval mode, and the
    loss is the mean over each batch. Weights and their `.grad` do not change. A grouped kernel has factors in each
    group; a depthwise kernel is one C x k^2 matrix.

    The measure describes one trained network. In a mixture the chain rule implies that gradient and coefficient are
    correlated; the ratios between the quarters show how strongly. The measure does not show whether directions with a
    small gradient are worth learning, nor whether this explains the accuracy of a network. Training updates the kernels
    W_k, not U, S and V. For them a small s_i is a result of training, and only the attention slows learning down. See
    docs/explain/statistics.md.

    Args:
        model: A network with layers `CondConv2d`, `DYConv2d`, `DCDConv2d` (any form, `norm=None`) or `DCDLinear`.
        batches: Pairs (images (B, C, H, W), classes (B,)).
        forms: Existing singular value decompositions by layer name; others are computed.
        loss: Function of (outputs, classes) that returns the mean loss.
        max_batches: Maximum number of batches; None for all.

    Raises:
        NoFactorsError: The model has no layer that the measure covers.
        ValueError: There is no batch.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1.
    """
    probes: dict[str, Probe] = {}
    skipped: dict[str, str] = {}
    check_module(model)
    check_type("forms", forms or {}, Mapping)
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if is_dynamic(module):
            probe = probe_for(module, (forms or {}).get(name))
            if isinstance(probe, str):
                skipped[name] = probe
            else:
                probes[name] = probe
    if not probes:
        reasons = f": {'; '.join(sorted(set(skipped.values())))}" if skipped else ""
        raise NoFactorsError(f"{type(model).__name__} has no layer with factors to measure{reasons}.")
    of_layer = {modules[name]: probe for name, probe in probes.items()}
    leaves = [leaf for probe in probes.values() for leaf in probe.leaves]
    device = next(model.parameters()).device
    num_images = num_batches = 0
    with (
        eval_mode(model),
        observed_coefficients(of_layer, lambda layer, coefficients: of_layer[layer].add_coefficients(coefficients)),
        _all_trainable(leaves),
    ):
        for images, classes in labelled(batches, max_batches):
            with torch.enable_grad():
                value = loss(model(images.to(device)), classes.to(device))
                gradients = iter(torch.autograd.grad(value, leaves, materialize_grads=True))
            for probe in probes.values():
                probe.add_gradients([next(gradients) for _ in probe.leaves])
            num_images += len(images)
            num_batches += 1
    if num_images == 0:
        raise ValueError("there is no batch to compute gradients of; the data loader is empty.")
    unused = [name for name, probe in probes.items() if probe.samples == 0]
    skipped |= dict.fromkeys(unused, "the network does not call it")
    return Suppression(
        layers=tuple(_result(name, modules[name], probe) for name, probe in probes.items() if name not in unused),
        skipped=skipped,
        images=num_images,
        batches=num_batches,
    )


@contextmanager
def _all_trainable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach frozen parameters too inside the block."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _result(name: str, module: nn.Module, probe: Probe) -> LayerSuppression:
    outputs, inputs = (Columns(coefficients=c, own=o, gradients=g) for c, o, g in probe.factor_statistics())
    mixture = probe if isinstance(probe, MixtureProbe) else None
    return LayerSuppression(
        name=name,
        kind=type(module).__name__,
        method="dcd" if mixture is None else "mixture",
        outputs=outputs,
        inputs=inputs,
        attention=None if mixture is None else mixture.attention,
        column_attention=None if mixture is None else mixture.column_attention(),
        kernel_gradients=None if mixture is None else mixture.kernel_gradients,
    )


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Return Spearman's rank correlation of two vectors. Ties have their mean rank; NaN if a vector is constant."""
    from scipy.stats import spearmanr

    constant = bool((a == a[0]).all() or (b == b[0]).all())
    return math.nan if constant else float(spearmanr(a.numpy(), b.numpy()).statistic)


def quartile_ratio(order: Tensor, values: Tensor) -> float:
    """Return the mean of `values` in the lowest quarter of `order` over that in the highest; NaN for fewer than 4."""
    count = len(order) // 4
    if count == 0:
        return math.nan
    ordered = values[order.argsort(stable=True)]
    highest = float(ordered[-count:].mean())
    return float(ordered[:count].mean()) / highest if highest > 0 else math.nan


def finite_or_none(number: float | None) -> float | None:
    """Return the number, or None if it is None or not finite."""
    return number if number is not None and math.isfinite(number) else None


def _geometric_mean(*values: float) -> float:
    if any(not value >= 0 for value in values):
        return math.nan
    if any(value == 0 for value in values):
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))
