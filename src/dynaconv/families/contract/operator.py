"""Base class of the operators whose kernel depends on their input, trainable or deployed."""

import copy
import sys
from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor, nn
from torch.fx import Proxy

STATIC_AXES = {"weight": 4, "bias": 1}
"""Keys of a static convolution's state dict, and the number of axes of each tensor."""
_PASS_THROUGH_FUNCTIONS = ("__setattr__", "register_parameter", "deepcopy")


class DynamicOperator(nn.Module, ABC):
    """A convolution or linear map whose kernel is computed for each sample.

    `dynaconv.DynamicLayer` is the trainable form; `dynaconv.deploy` makes a `DeployedLayer` of it. `torch.fx` records
    either form as one operation, like a layer of `torch.nn`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    @property
    @abstractmethod
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms that can evaluate this layer."""

    @property
    @abstractmethod
    def algorithm(self) -> Any:
        """``auto`` or one of `algorithms`; it can be set at any time."""

    @abstractmethod
    def coefficients(self, x: Tensor) -> Any:
        """The coefficients that the dynamic branch computes for ``x``: a named tuple of tensors, batch first."""

    @abstractmethod
    def kernel(self, x: Tensor) -> Tensor:
        """The kernel of each sample of ``x``, ``(B, *weight.shape)`` of the static operator."""

    @abstractmethod
    def sample_bias(self, x: Tensor) -> Tensor | None:
        """The bias of each sample of ``x``, ``(B, C_out)``, or None if the layer adds no bias."""

    @abstractmethod
    def _check_input(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` is a valid input."""

    @abstractmethod
    def _compute(self, x: Tensor) -> Tensor:
        """Run `forward` on a checked input."""

    @abstractmethod
    def _choose(self, x: Tensor) -> str:
        """Return the algorithm for this input: the one that was set, or the cheapest."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each sample of ``(B, C_in, H, W)`` with its own kernel: ``(B, C_out, H_out, W_out)``.

        A linear layer maps ``(..., in_features)`` to ``(..., out_features)``, each row with its own matrix.

        Raises:
            ValueError: the input has an invalid shape or is complex.
        """
        if isinstance(x, Proxy):
            return self._record_call(x)
        self._check_input(x)
        return self._compute(x)

    def _record_call(self, x: Proxy) -> Any:
        """Record the call of this layer as one node of the `torch.fx` graph."""
        tracer: Any = x.tracer
        if tracer.root is self:
            raise TypeError(
                f"torch.fx records the layer {type(self).__name__} as one operation; trace a network that holds it."
            )
        return tracer.create_proxy("call_module", tracer.path_of_module(self), (x,), {})

    def __prepare_scriptable__(self) -> None:
        """Called by `torch.jit.script`.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"torch.jit.script cannot compile {type(self).__name__}; use torch.jit.trace, torch.export or "
            f"dynaconv.export_onnx."
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        self._refuse_folding()
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        if name in STATIC_AXES:
            self._refuse_folding()
        super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As `torch.nn.Module.register_parameter`."""
        if name in STATIC_AXES:
            self._refuse_folding()
        super().register_parameter(name, param)

    def _refuse_folding(self) -> None:
        """Raise TypeError if a function of another library folds a batch norm into ``weight`` and ``bias``.

        A function is recognised by "fuse" in its name: torch's `fuse_conv_bn_eval`, which folds into a copy,
        ultralytics' `fuse_conv_and_bn`, mmcv's `_fuse_conv_bn`. They change no other part of the kernel, so the folded
        layer would compute another function.
        """
        frame: Any = sys._getframe(2)
        while frame.f_code.co_name in _PASS_THROUGH_FUNCTIONS:
            frame = frame.f_back
        function = frame.f_code.co_name
        if "fuse" in function:
            raise TypeError(
                f"{function} folds a batch norm only into `weight` and `bias`, but the kernel of a "
                f"{type(self).__name__} has other parts; call dynaconv.deploy(network) first, which folds batch norms."
            )
