"""The deployed form of a dynamic layer: frozen tensors, and a branch of affine maps and activations. Norms are folded.

Eager PyTorch runs this form, and every backend starts from it: the native kernels, ONNX, OpenVINO. Its constants are
computed here once, in float64.
"""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.affine import frozen_parameter, frozen_sum, multiply_rows
from dynaconv.families.contract.branch import ACTIVATIONS, BranchLinear, DynamicBranch, context_dtype, inverse_length
from dynaconv.families.contract.checks import check_choice
from dynaconv.families.contract.convolution import DynamicConvolution, conv_arguments
from dynaconv.families.contract.norms import NORM_EPSILON, norm_affine
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.families.contract.static import copy_hooks_and_attributes
from dynaconv.ops import full_precision


class AffineMap(nn.Module):
    """x -> A x + b, with fixed A ``(N, R)`` and b ``(N,)``.

    Args:
        weight: A.
        bias: b; None for zeros.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = frozen_parameter(weight)
        self.register_parameter("bias", None if bias is None else frozen_parameter(bias))
        self.training = False

    @classmethod
    def of(cls, linear: nn.Linear, factor: float = 1.0) -> Self:
        """Return the map of a linear layer times a factor, in float64."""
        weight, bias = _double(linear.weight), linear.bias
        if isinstance(linear, BranchLinear):
            weight = linear.effective_weight(weight)
        return cls(weight * factor, None if bias is None else _double(bias) * factor)

    @property
    def constant(self) -> Tensor:
        """b; zeros if `bias` is None."""
        return self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias.detach()

    def fold_input_affine(self, scale: Tensor, shift: Tensor) -> "AffineMap":
        """Return the map of the input ``scale * x + shift``, with vectors ``(R,)``, as a map of x."""
        return AffineMap(self.weight * scale, self.constant + self.weight @ shift)

    def fold_output_affine(self, scale: Tensor, shift: Tensor) -> "AffineMap":
        """Return the map with the output times ``scale`` plus ``shift``, both ``(N,)``."""
        scale, shift = scale.to(self.weight), shift.to(self.weight)
        return AffineMap(scale[:, None] * self.weight, scale * self.constant + shift)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, R)`` to ``(B, N)`` in the input's dtype."""
        bias = self.bias
        return F.linear(x, self.weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class DeployedBranch(nn.Module):
    """The branch of a deployed layer, from the context to the logits of the coefficients.

    Layer norm (if `normalise`) -> `squeeze` -> `activation` -> unit length (if `unit`) -> one map per head.
    Computes in float32 (float64 for float64 contexts).

    Attributes:
        heads: One affine map of the hidden vector for each kind of coefficient.
        squeeze: The first map; None if the heads read the context.
        gate: F2 of the activation ``gate``, h * hsig(F2 h).
        activation: Activation between squeeze and heads.
        unit: Whether the hidden vector is divided by its length.
        normalise: Whether the context is layer-normalised; other context norms are folded into the first map.
    """

    squeeze: AffineMap | None
    gate: AffineMap | None

    def __init__(
        self,
        heads: Mapping[str, AffineMap],
        *,
        squeeze: AffineMap | None = None,
        gate: AffineMap | None = None,
        activation: str = "relu",
        unit: bool = False,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        self.squeeze, self.gate = squeeze, gate
        self.activation, self.unit, self.normalise = activation, unit, normalise
        self.eval()

    @classmethod
    def of(cls, branch: DynamicBranch, context_norm: nn.Module | None, factor: float = 1.0) -> Self:
        """Return the deployed form of a branch and its context norm, with the outputs times a factor."""
        heads = {name: AffineMap.of(head, branch.gain * factor) for name, head in branch.heads.items()}  # type: ignore[arg-type]
        return cls(
            heads,
            squeeze=fold_context_norm(context_norm, AffineMap.of(branch.squeeze)),
            gate=AffineMap.of(branch.gate) if branch.activation == "gate" else None,
            activation=branch.activation,
            unit=branch.unit_hidden,
            normalise=isinstance(context_norm, nn.LayerNorm),
        )

    def head(self, name: str) -> AffineMap:
        """Return the head with this name."""
        head = self.heads[name]
        assert isinstance(head, AffineMap)
        return head

    def hidden(self, context: Tensor) -> Tensor:
        """Return the input of the heads for a context ``(B, features)``."""
        if self.normalise:
            context = F.layer_norm(context, context.shape[1:], eps=NORM_EPSILON)
        if self.squeeze is None:
            return context
        hidden: Tensor = self.squeeze(context)
        if self.gate is not None:
            hidden = hidden * F.relu6(self.gate(hidden) + 3) / 3
        else:
            hidden = ACTIVATIONS[self.activation](hidden)
        return hidden * inverse_length(hidden) if self.unit else hidden

    def forward(self, context: Tensor) -> dict[str, Tensor]:
        """Map ``(B, features)`` in float32 or float64 to one ``(B, size)`` tensor per head."""
        with full_precision(context.device):
            hidden = self.hidden(context)
            return {name: head(hidden) for name, head in self.heads.items()}

    def extra_repr(self) -> str:
        """Settings that are not parameters."""
        return f"activation={self.activation!r}, unit={self.unit}, normalise={self.normalise}"


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedKernel:
    """A kernel W(x)[o, i, t] = filter_o(x) channel_i(x) spatial_t(x) sum_k a_k(x) W_k[o, i, t] of a deployed layer.

    The attentions filter, channel and spatial are sigmoids of the logits of the head with their name, or 1 without that
    head. The weights a_k are a softmax or sigmoids of the logits of the head ``kernel``. The bias of a sample is
    ``bias + filter(x) * scaled_bias + sum_k a_k(x) biases[k]``.

    Attributes:
        kernels: W_k, ``(K, C_out, C_in / groups, *k)``.
        branch: Maps the averaged input to the hidden vector; its own heads may have other names.
        heads: Maps the hidden vector to logits, by name. With K = 1 there is no head ``kernel``, and a_1 is 1.
        softmax: Whether the weights a_k are a softmax.
        static: Whether the weight of the first kernel is 1; the head ``kernel`` then has K - 1 logits.
        bias, scaled_bias: ``(C_out,)``; None for zeros.
        biases: ``(K, C_out)``; None for zeros.
    """

    kernels: Tensor
    branch: DeployedBranch
    heads: Mapping[str, AffineMap]
    softmax: bool = False
    static: bool = False
    bias: Tensor | None = None
    scaled_bias: Tensor | None = None
    biases: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class AssembledKernel:
    """A kernel W(x) of M blocks, each a weighted sum of n cells, of a deployed layer.

    The kernel ``(C_out, C_in / groups, *k)`` is cut into blocks of the shape of a cell, numbered by tap, output block,
    input block, the last fastest. Block m is scale * sum_j a_mj(x) E_j, where scale has one factor for each output
    channel and, for logits t of the layer's head, a_mj = (1 - tau) t_mj / (sum_k |t_mk| + 0.001) + tau * start_mj. A
    further logit in each block belongs to no cell.

    Attributes:
        cells: E_j, ``(n, c_o, c_i, *taps)``; other layers may have the same tensor.
        branch: Maps the averaged input to the hidden vector; its own heads may have other names.
        hidden_norm: Scale and shift, ``(R,)`` each, of a layer norm between the branch's first map and its activation;
            None for no norm.
        head: Maps the hidden vector to the logits, ``(M * (n + 1),)``.
        start: tau and start, ``(M, n)``; None if tau is zero.
        scale: ``(C_out,)``; None for ones.
        bias: ``(C_out,)``; None for zeros.
    """

    cells: Tensor
    branch: DeployedBranch
    hidden_norm: tuple[Tensor, Tensor] | None = None
    head: AffineMap
    start: tuple[float, Tensor] | None = None
    scale: Tensor | None = None
    bias: Tensor | None = None


class DeployedLayer(DynamicOperator):
    """A dynamic layer in eval mode, only for inference; made by `DynamicLayer.deployed`.

    It is an ordinary module that can be moved, saved, copied and compiled. Its tensors are parameters without gradient.
    A family's subclass defines the stored tensors and the computation of the kernel.

    Attributes:
        branch: Maps the context to the logits of the coefficients.
        asked: The algorithm that was set on the original layer. Backends use it; ``auto`` lets them choose.
    """

    branch: DeployedBranch
    asked: str
    _algorithm: str

    @property
    def algorithm(self) -> str:
        """Algorithm in eager PyTorch, ``auto`` or one of `algorithms`; backends ignore it."""
        return self._algorithm

    @algorithm.setter
    def algorithm(self, value: str) -> None:
        check_choice("algorithm", value, ("auto", *self.algorithms))
        self._algorithm = value

    def deployed(self) -> Self:
        """Return a copy."""
        return copy.deepcopy(self)

    def deployed_among(self, memo: dict[int, Any]) -> Self:
        """Return a copy, which shares tensors with copies of other layers; see `DynamicLayer.deployed_among`."""
        return copy.deepcopy(self, memo)

    def mixed_kernel(self) -> MixedKernel | None:
        """Return the kernel as a mixture with attentions, from which backends form it; None if it is none."""
        return None

    def assembled_kernel(self) -> AssembledKernel | None:
        """Return the kernel as blocks of cells, from which backends form it; None if it is none."""
        return None

    def excitation(self) -> AffineMap | None:
        """Return the last map of the branch of a layer with squeeze-and-excitation; None for other layers.

        Such a layer computes y, a convolution with ``weight`` and ``bias``, then ``y * sigmoid(map(h)) + shift``,
        where h is the branch's hidden vector for the averaged y.
        """
        return None

    @abstractmethod
    def absorb_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Make the layer compute ``scale * forward(x) + shift``, so that a fixed norm after it can be removed.

        Args:
            scale, shift: One value per output channel, ``(C_out,)``.

        Raises:
            ValueError: the family cannot absorb this scale; the layer is unchanged.
        """

    def _store_frozen(self, name: str, tensor: Tensor | None) -> None:
        """Store a tensor as a frozen parameter with this name."""
        self.register_parameter(name, None if tensor is None else frozen_parameter(tensor))

    def _adopt_settings(self, layer: Any) -> None:
        """Take over algorithm, hooks and attributes of the original layer, and move the branch to its device and dtype.

        The branch of a half-precision layer is stored in float32, because it computes in float32.
        """
        self.asked = self._algorithm = layer.algorithm
        self.context_features = layer.context_features
        self.block_context, self.place_in_block = layer.block_context, layer.place_in_block
        self.branch.to(layer.stored_kernel.device, context_dtype(layer.stored_kernel.dtype))
        copy_hooks_and_attributes(layer, self)
        self.eval()


class DeployedConv(DynamicConvolution, DeployedLayer):
    """A deployed convolution, with the attributes of torch's convolutions.

    Its ``weight`` is in the layout of a convolution, ``(..., C_out, C_in / groups, *k)``, also if it is transposed.

    Args:
        layer: The original layer.
    """

    shift: nn.Parameter | None
    """Part of the bias that does not depend on coefficients, ``(C_out,)``."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.dims, self.transposed, self.output_padding = layer.dims, layer.transposed, layer.output_padding
        for name, value in conv_arguments(layer).items():
            setattr(self, name, value)
        self._store_kernel(layer)
        self._store_frozen("bias", layer.bias)
        self._store_frozen("shift", None)

    def _store_kernel(self, layer: Any) -> None:
        """Store a frozen copy of the layer's ``conv_weight``; a family without ``weight`` stores its own tensors."""
        self._store_frozen("weight", layer.conv_weight)

    @property
    def conv_weight(self) -> Tensor:
        """``weight``."""
        return self.weight

    def _scale_kernel(self, scale: Tensor) -> None:
        """Multiply the kernel of output channel o by ``scale[o]``, for every sample."""
        self.weight = multiply_rows(self.weight, scale, axis=-self.dims - 2)

    def absorb_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Make the layer compute ``scale * forward(x) + shift``; see `DeployedLayer.absorb_affine`."""
        self._scale_kernel(scale)
        if self.bias is not None:
            self.bias = multiply_rows(self.bias, scale)
        if self.shift is not None:
            self.shift = multiply_rows(self.shift, scale)
        self._add_fixed(shift)

    def _add_fixed(self, shift: Tensor) -> None:
        """Add a vector ``(C_out,)`` to the output of every sample."""
        self.shift = frozen_sum(self.shift, shift, self.stored_kernel)


def fold_context_norm(norm: nn.Module | None, first: AffineMap) -> AffineMap:
    """Return the first map of a branch with its context norm folded in, if the norm has fixed statistics."""
    return (
        first
        if norm is None or isinstance(norm, nn.LayerNorm | nn.Identity)
        else first.fold_input_affine(*norm_affine(norm))
    )


def _double(tensor: Tensor) -> Tensor:
    # On the CPU, because not every device supports float64.
    return tensor.detach().cpu().double()
