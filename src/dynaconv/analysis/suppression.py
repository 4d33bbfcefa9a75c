"""Whether small coefficients keep the gradient from the directions they scale: the paper's second argument, measured.

In vanilla dynamic convolution W(x) = W_mean + U Pi(x) S V^T. The pair of columns u_i and v_i that belongs to kernel k
enters as pi_k(x) s_i u_i v_i^T and in no other way, so that the gradient of either is multiplied by pi_k(x) s_i: when
that is small, attention is a brake on learning the pair. In DCD the columns of P and Q are joined through all L x L
entries of Phi(x): p_j meets every q_l through row j of Phi, and is left without gradient only when the whole row is
small, whatever its own entry Phi_jj is.

Reference: Li et al., ICLR 2021, arXiv:2103.08756v1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.analysis._suppression_probes import MixtureProbe, Probe, probe_for
from dynaconv.analysis._units import eval_mode, is_dynamic
from dynaconv.analysis.decomposition import SVDForm

Loss = Callable[[Tensor, Tensor], Tensor]


class NoFactorsError(ValueError):
    """A network has no layer with factors that coefficients scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """The D columns of one factor, all of unit length: what scales each, and the gradient that reaches it.

    Attributes:
        coefficients: Mean over the samples of the size of what multiplies the column: |a_k| s_i in a mixture, the norm
            of its row or column of Phi in DCD.
        own: The same where a column had its own partner only: |a_k| s_i again, or |Phi_jj|.
        gradients: Mean over the batches of the norm of the loss's gradient with respect to the column.
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
        """Mean gradient of the quarter of columns with the smallest own coefficients over that of the largest."""
        return quartile_ratio(self.own, self.gradients)

    @property
    def coefficient_ratio(self) -> float:
        """The same ratio of the own coefficients themselves: how far apart the quarters are."""
        return quartile_ratio(self.own, self.own)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerSuppression:
    """The measure of one layer; each number is averaged over the factors of outputs and inputs.

    Attributes:
        name: Dotted path in the model.
        kind: Class name.
        method: `mixture` or `dcd`.
        outputs: Columns of U or P.
        inputs: Columns of V or Q (of R in DCD's depthwise form).
        attention: Mean of |a_k| over the samples, (K,); None for DCD.
        column_attention: Mean of |a_k| of the kernel that each column belongs to, (D,); None for DCD.
        kernel_gradients: Mean over the batches of the norm of the gradient of each W_k, (K,); None for DCD.
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
        """As `Columns.correlation`."""
        return (self.outputs.correlation + self.inputs.correlation) / 2

    @property
    def own_correlation(self) -> float:
        """As `Columns.own_correlation`; the same as `correlation` for a mixture."""
        return (self.outputs.own_correlation + self.inputs.own_correlation) / 2

    @property
    def attention_correlation(self) -> float | None:
        """Spearman's rank correlation of the columns' gradients with the attention alone, without s_i."""
        if self.column_attention is None:
            return None
        sides = (self.outputs, self.inputs)
        return sum(rank_correlation(self.column_attention, side.gradients) for side in sides) / 2

    @property
    def gradient_ratio(self) -> float:
        """As `Columns.gradient_ratio`, the geometric mean of both factors'."""
        return _geometric_mean(self.outputs.gradient_ratio, self.inputs.gradient_ratio)

    @property
    def coefficient_ratio(self) -> float:
        """As `Columns.coefficient_ratio`, the geometric mean of both factors'."""
        return _geometric_mean(self.outputs.coefficient_ratio, self.inputs.coefficient_ratio)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None where a number is not defined."""
        return {
            "name": self.name,
            "kind": self.kind,
            "method": self.method,
            "columns": len(self.outputs.own),
            **{key: defined(getattr(self, key)) for key in NUMBERS},
            "attention": None if self.attention is None else self.attention.tolist(),
            "kernel_gradients": None if self.kernel_gradients is None else self.kernel_gradients.tolist(),
        }


NUMBERS = ("correlation", "own_correlation", "attention_correlation", "gradient_ratio", "coefficient_ratio")


@dataclass(frozen=True, kw_only=True, eq=False)
class Suppression:
    """The measure of a network.

    Attributes:
        layers: In order of registration.
        skipped: Dynamic layers that the measure does not cover, by name, and why.
        images: How many were seen.
        batches: In how many batches, for each of which a gradient was taken.
    """

    layers: tuple[LayerSuppression, ...]
    skipped: Mapping[str, str]
    images: int
    batches: int

    def average(self, key: str) -> float | None:
        """Mean of a number over the layers where it is defined, of a ratio the geometric mean; None without any."""
        values = [value for layer in self.layers if (value := defined(getattr(layer, key))) is not None]
        if not values:
            return None
        return _geometric_mean(*values) if key.endswith("ratio") else sum(values) / len(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "images": self.images,
            "batches": self.batches,
            **{key: self.average(key) for key in NUMBERS},
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
    """Gradient and coefficient of every column of the factors, over a data set.

    With G_b the gradient of a batch's loss with respect to the kernel W(x_b) of sample b, read as a matrix, the
    gradients of the columns are, by the chain rule,

    - in a mixture, S and the attention held: dL/du_i = s_i sum_b a_k(x_b) G_b v_i, and dL/dv_i with G_b^T u_i;
    - in DCD: dL/dp_j = sum_b G_b Q Phi(x_b)^T e_j, and dL/dq_j = sum_b G_b^T P Phi(x_b) e_j.

    With `weight_norm` of `DCDConv2d`, the gradients lack the part that would make P or Q longer as a whole, which has
    no effect there. Columns are taken at unit length: U and V have it, the lengths of those of P, Q and R go into Phi,
    which leaves W(x) as it is and makes sizes comparable. The network runs in eval mode; the loss is the mean over each
    batch. Neither weights nor their `.grad` change. A grouped kernel has factors in each group; a depthwise one is a
    C x k^2 matrix.

    The measure shows the state of one trained network. That gradient and coefficient of a mixture go together is the
    chain rule at work and expected; how far apart the quarters lie says how strong it is. It cannot show that the
    directions with little gradient would be worth learning, nor that this is why a network is better or worse; and
    kernels are trained as W_k, not as U, S and V, so that for them s_i is a result of training, not a brake on it, and
    the attention alone is. See docs/analysis/statistics.md.

    Args:
        model: With layers `CondConv2d`, `DYConv2d` or `DCDConv2d` (any form, `norm=None`), or `DCDLinear`.
        batches: Pairs (images (B, C, H, W), classes (B,)).
        forms: Singular value decompositions that are known already, by layer name.
        loss: Mean loss of (outputs, classes).
        max_batches: Stop after so many; None for all.

    Raises:
        NoFactorsError: The model has no layer that the measure covers.
        ValueError: There is no batch.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1.
    """
    probes: dict[str, Probe] = {}
    skipped: dict[str, str] = {}
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
    pass_ = _Pass(model, {modules[name]: probe for name, probe in probes.items()}, loss)
    with eval_mode(model), pass_:
        for index, (images, classes) in enumerate(batches):
            if index == max_batches:
                break
            pass_.step(images, classes)
    if pass_.images == 0:
        raise ValueError("there is no batch to take gradients of; the data loader is empty.")
    unused = [name for name, probe in probes.items() if probe.samples == 0]
    skipped |= dict.fromkeys(unused, "the network does not run it")
    return Suppression(
        layers=tuple(_result(name, modules[name], probe) for name, probe in probes.items() if name not in unused),
        skipped=skipped,
        images=pass_.images,
        batches=pass_.batches,
    )


@dataclass(eq=False)
class _Pass:
    """Forward and backward, with the probes watching."""

    model: nn.Module
    probes: Mapping[nn.Module, Probe]
    loss: Loss
    images: int = 0
    batches: int = 0
    _handles: list[torch.utils.hooks.RemovableHandle] = field(default_factory=list)
    _frozen: list[nn.Parameter] = field(default_factory=list)

    def step(self, images: Tensor, classes: Tensor) -> None:
        device = next(self.model.parameters()).device
        leaves = [leaf for probe in self.probes.values() for leaf in probe.leaves]
        with torch.enable_grad():
            value = self.loss(self.model(images.to(device)), classes.to(device))
            gradients = iter(torch.autograd.grad(value, leaves, materialize_grads=True))
        for probe in self.probes.values():
            probe.absorb([next(gradients) for _ in probe.leaves])
        self.images += len(images)
        self.batches += 1

    @torch.no_grad()
    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.probes[module].see(module.coefficients(args[0]))  # type: ignore[operator]

    def __enter__(self) -> _Pass:
        self._handles = [module.register_forward_pre_hook(self._before) for module in self.probes]
        leaves = [leaf for probe in self.probes.values() for leaf in probe.leaves]
        self._frozen = [leaf for leaf in leaves if not leaf.requires_grad]
        for leaf in self._frozen:
            leaf.requires_grad_(True)
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        for leaf in self._frozen:
            leaf.requires_grad_(False)


def _result(name: str, module: nn.Module, probe: Probe) -> LayerSuppression:
    outputs, inputs = (Columns(coefficients=c, own=o, gradients=g) for c, o, g in probe.sides())
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
    """Spearman's rank correlation of two vectors, ties at their mean rank; NaN where one of them is constant."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    lengths = ranks.norm(dim=1)
    return float(ranks[0] @ ranks[1] / lengths.prod()) if bool((lengths > 0).all()) else math.nan


def quartile_ratio(order: Tensor, values: Tensor) -> float:
    """Mean of `values` over the quarter with the smallest `order`, over that of the largest; NaN for fewer than 4."""
    count = len(order) // 4
    if count == 0:
        return math.nan
    ordered = values[order.argsort(stable=True)]
    highest = float(ordered[-count:].mean())
    return float(ordered[:count].mean()) / highest if highest > 0 else math.nan


def defined(number: float | None) -> float | None:
    """The number, or None where there is none or it is not finite."""
    return number if number is not None and math.isfinite(number) else None


def _ranks(values: Tensor) -> Tensor:
    places: Tensor
    counts: Tensor
    _, places, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts - 1) / 2)[places]


def _geometric_mean(*values: float) -> float:
    if any(not value >= 0 for value in values):
        return math.nan
    if any(value == 0 for value in values):
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))
