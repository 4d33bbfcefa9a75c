"""The contract of the dynamic linear layers."""

from typing import Any, Self

from torch import Tensor, nn

from dynaconv.families.contract.base import DynamicLayer, adopt_static, fill_static
from dynaconv.families.contract.static import check_static, copy_hooks_and_attributes


class DynamicLinear(DynamicLayer):
    """Mixin for linear layers, whose constructor takes in_features, out_features, bias, device and dtype in this order.

    A subclass defines `__init__` and all that a `DynamicLayer` computes.
    """

    in_features: int
    out_features: int

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
