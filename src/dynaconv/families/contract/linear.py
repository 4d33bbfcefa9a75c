"""The contract of the dynamic linear layers."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.layer import DynamicLayer, adopt_static, fill_static
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.families.contract.static import check_static, copy_hooks_and_attributes
from dynaconv.ops import pool_context


def rows_of(x: Tensor) -> Tensor:
    """Return the rows of each sample, ``(B, ..., C)`` to ``(B, N, C)``; B may be 0."""
    return x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)


class DynamicMap(DynamicOperator):
    """A linear map of ``(B, ..., in_features)``, trainable or deployed, with one matrix for each sample.

    Its own context is the mean over all axes between batch and features, as that of a 1x1 convolution of the same
    input with its features as channels. ``(B, in_features)`` is one row for each sample.
    """

    in_features: int
    out_features: int

    def _mask_sizes(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[1:-1])

    @property
    def input_features(self) -> int:
        """``in_features``."""
        return self.in_features

    def _average(self, x: Tensor, mask: Tensor | None) -> Tensor:
        rows = rows_of(x)
        if mask is None:
            return rows.mean(1, dtype=context_dtype(x.dtype))
        return pool_context(rows.transpose(1, 2), 1, context_dtype(x.dtype), mask.flatten(2))

    def extra_repr(self) -> str:
        """Sizes of the layer."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class DynamicLinear(DynamicLayer):
    """Mixin for linear layers, whose constructor takes in_features, out_features, bias, device and dtype in this order.

    A subclass defines `__init__` and all that a `DynamicLayer` computes.
    """

    in_features: int
    out_features: int
    network_options: ClassVar[Mapping[str, Any]] = {}
    """Options with which the layer's own context is that of a `DynamicMap`, for linear layers inside a network."""

    @classmethod
    def static_class(cls) -> type[nn.Linear]:
        """Return `torch.nn.Linear`, which `from_linear` takes."""
        return nn.Linear

    @classmethod
    def like(cls, linear: nn.Linear, **hyperparameters: Any) -> Self:
        """Return a layer with ``linear``'s sizes, weights, dtype, device and mode, and a new dynamic part.

        Raises:
            TypeError: ``linear`` is not a `torch.nn.Linear` or overrides its computation, or an option is unknown.
            ValueError: an option is invalid for the layer.
        """
        check_static(linear, nn.Linear, f"{cls.__name__}.from_linear")
        weight = linear.weight
        arguments: tuple[Any, ...] = (linear.in_features, linear.out_features, linear.bias is not None)
        layer = cls(*arguments, weight.device, weight.dtype, **hyperparameters)
        adopt_static(layer, linear)
        copy_hooks_and_attributes(linear, layer)
        return layer

    @classmethod
    def from_linear(cls, linear: nn.Linear, **hyperparameters: Any) -> Self:
        """Return a layer that computes the function of ``linear`` until it is trained; see `DynamicConv.from_conv`."""
        layer = cls.like(linear, **hyperparameters)
        layer._neutralise()
        return layer

    def static_with(self, weight: Tensor, bias: Tensor | None) -> nn.Linear:
        """Return a static linear layer with copies of ``weight`` and ``bias``, see `DynamicLayer.static_with`."""
        own = self.stored_kernel
        linear = nn.Linear(self.in_features, self.out_features, bias is not None, own.device, own.dtype)
        return fill_static(self, linear, weight, bias)
