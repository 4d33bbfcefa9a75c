"""A dynamic layer as it is shipped: its tensors, its branch as affine maps and activations, nothing left to fold.

Eager PyTorch runs it, and every backend reads it: the native kernels, ONNX, OpenVINO. Constants are worked out here,
once, in float64.
"""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.affine import fixed, multiply_rows, plus
from dynaconv.families.contract.branch import ACTIVATIONS, BranchLinear, DynamicBranch, context_dtype, inverse_length
from dynaconv.families.contract.checks import check_choice
from dynaconv.families.contract.convolution import CONV2D_ARGUMENTS, DynamicConvolution
from dynaconv.families.contract.norms import NORM_EPSILON, norm_affine
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.families.contract.static import carry_attachments
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
        self.weight = fixed(weight)
        self.register_parameter("bias", None if bias is None else fixed(bias))
        self.training = False

    @classmethod
    def of(cls, linear: nn.Linear, factor: float = 1.0) -> Self:
        """What a linear layer computes, times a factor, in float64."""
        weight, bias = _double(linear.weight), linear.bias
        if isinstance(linear, BranchLinear):
            weight = linear.acting(weight)
        return cls(weight * factor, None if bias is None else _double(bias) * factor)

    @property
    def constant(self) -> Tensor:
        """b, also where it is zero."""
        return self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias.detach()

    def after(self, scale: Tensor, shift: Tensor) -> "AffineMap":
        """The map of ``scale * x + shift``."""
        return AffineMap(self.weight * scale, self.constant + self.weight @ shift)

    def then(self, scale: Tensor, shift: Tensor) -> "AffineMap":
        """The map times ``scale``, plus ``shift``, both ``(N,)``."""
        scale, shift = scale.to(self.weight), shift.to(self.weight)
        return AffineMap(scale[:, None] * self.weight, scale * self.constant + shift)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, R)`` to ``(B, N)`` in the input's dtype."""
        bias = self.bias
        return F.linear(x, self.weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class DeployedBranch(nn.Module):
    """From the context of a layer to its coefficients, before what only the family knows.

    layer norm (where `normalise`) -> `squeeze` -> `activation` -> unit length (where `unit`) -> one map a head.
    Computes in float32 (float64 for float64 contexts).

    Attributes:
        heads: One affine map of the hidden vector for each kind of coefficient.
        squeeze: The first map; None where the heads read the context itself.
        gate: F2 of the activation ``gate``, h * hsig(F2 h).
        activation: Between squeeze and heads.
        unit: Whether the hidden vector is divided by its length.
        normalise: Whether the context is layer-normalised; other norms of it are part of the first map.
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
        """The deployed form of a branch and the norm of what it reads, all coefficients times a factor."""
        heads = {name: AffineMap.of(head, branch.gain * factor) for name, head in branch.heads.items()}  # type: ignore[arg-type]
        return cls(
            heads,
            squeeze=behind_norm(context_norm, AffineMap.of(branch.squeeze)),
            gate=AffineMap.of(branch.gate) if branch.activation == "gate" else None,
            activation=branch.activation,
            unit=branch.unit_hidden,
            normalise=isinstance(context_norm, nn.LayerNorm),
        )

    def head(self, name: str) -> AffineMap:
        """The map of that name."""
        found = self.heads[name]
        assert isinstance(found, AffineMap)
        return found

    def hidden(self, context: Tensor) -> Tensor:
        """What the heads read, of a context ``(B, features)``."""
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
        """Map ``(B, features)`` in float32 or float64 to one ``(B, size)`` tensor a head."""
        with full_precision(context.device):
            hidden = self.hidden(context)
            return {name: head(hidden) for name, head in self.heads.items()}

    def extra_repr(self) -> str:
        """What holds no parameters."""
        return f"activation={self.activation!r}, unit={self.unit}, normalise={self.normalise}"


class DeployedLayer(DynamicOperator):
    """A dynamic layer in eval mode, for inference alone; made by `DynamicLayer.deployed`.

    A module like any other, so that it can be moved, saved, copied and compiled; its tensors are parameters that need
    no gradient. A family's subclass says what it stores and how the kernel is put together.

    Attributes:
        branch: From context to coefficients.
        asked: The algorithm that the layer was set to, which backends keep to; ``auto`` leaves the choice to them.
    """

    branch: DeployedBranch
    asked: str
    _algorithm: str

    @property
    def algorithm(self) -> str:
        """What runs in eager PyTorch, ``auto`` or one of `algorithms`; backends do not ask."""
        return self._algorithm

    @algorithm.setter
    def algorithm(self, value: str) -> None:
        check_choice("algorithm", value, ("auto", *self.algorithms))
        self._algorithm = value

    def deployed(self) -> Self:
        """A copy."""
        return copy.deepcopy(self)

    @abstractmethod
    def absorb_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Make the layer compute ``scale * forward(x) + shift``, so that a fixed norm behind it is no longer needed.

        Args:
            scale, shift: One number a channel out, ``(C_out,)``.

        Raises:
            ValueError: the family cannot take this scale; the layer is as it was.
        """

    def _keep(self, name: str, tensor: Tensor | None) -> None:
        """Store a tensor as a fixed parameter of that name."""
        self.register_parameter(name, None if tensor is None else fixed(tensor))

    def _settle(self, layer: Any) -> None:
        """Give the branch the type and place of the layer that this one was made of, and take over what hangs on it.

        The branch of a half-precision layer, which computes in float32 anyway, holds float32.
        """
        self.asked = self._algorithm = layer.algorithm
        self.branch.to(layer.weight.device, context_dtype(layer.weight.dtype))
        carry_attachments(layer, self)
        self.eval()


class DeployedConv2d(DynamicConvolution, DeployedLayer):
    """A deployed convolution, with the attributes of `torch.nn.Conv2d`.

    Args:
        layer: The layer that it is made of.
    """

    shift: nn.Parameter | None
    """A part of the bias that no coefficient touches, ``(C_out,)``."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        for name in CONV2D_ARGUMENTS:
            setattr(self, name, getattr(layer, name))
        self.transposed, self.output_padding = layer.transposed, layer.output_padding
        self._keep("weight", layer.weight)
        self._keep("bias", layer.bias)
        self._keep("shift", None)

    def absorb_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Make the layer compute ``scale * forward(x) + shift``; see `DeployedLayer.absorb_affine`."""
        self.weight = multiply_rows(self.weight, scale, axis=-4)
        if self.bias is not None:
            self.bias = multiply_rows(self.bias, scale)
        if self.shift is not None:
            self.shift = multiply_rows(self.shift, scale)
        self._add_fixed(shift)

    def _add_fixed(self, shift: Tensor) -> None:
        """Add a vector ``(C_out,)`` to the output of every sample."""
        self.shift = plus(self.shift, shift, self.weight)


def behind_norm(norm: nn.Module | None, first: AffineMap) -> AffineMap:
    """A map that takes in the norm of what it reads, where that norm is by fixed statistics."""
    return first if norm is None or isinstance(norm, nn.LayerNorm | nn.Identity) else first.after(*norm_affine(norm))


def _double(tensor: Tensor) -> Tensor:
    # On the CPU, because not every device has that type.
    return tensor.detach().cpu().double()
