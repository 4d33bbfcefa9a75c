"""Base class of the operators whose kernel depends on their input, trainable or deployed."""

import copy
import sys
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from dynaconv.ops import is_exporting

STATIC_KEYS = ("weight", "bias")
"""Keys of a static layer's state dict."""
_PASS_THROUGH_FUNCTIONS = ("__setattr__", "register_parameter", "deepcopy", "__deepcopy__")


class DynamicOperator(nn.Module, ABC):
    """A convolution or linear map whose kernel is computed for each sample.

    `dynaconv.DynamicLayer` is the trainable form; `dynaconv.deploy` makes a `DeployedLayer` of it. `torch.fx` records
    either form as one operation, like a layer of `torch.nn`.
    """

    weight: nn.Parameter
    """The static kernel, or K of them; a property in families that store their kernel in another form."""
    bias: nn.Parameter | None
    _accepts_context: ClassVar[bool] = False
    """Whether layers of the family can be built with ``context_features``."""
    context_features: int | None = None
    """Length F of the context that `forward` takes beside the input; None: the branch reads the input."""

    @property
    def stored_kernel(self) -> Tensor:
        """The parameter that holds the kernel: `weight`, or another one if the family computes `weight` from it."""
        return self.weight

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

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Convolve each sample of ``(B, C_in, *sizes)`` with its own kernel: ``(B, C_out, *out_sizes)``.

        A linear layer maps ``(..., in_features)`` to ``(..., out_features)``, each row with its own matrix.

        Args:
            x: Input.
            context: Input of the branch, ``(B, context_features)``, if the layer was built with `context_features`.

        Raises:
            ValueError: the input has an invalid shape or is complex, or the context is missing, unexpected or of
                another shape.
        """
        if isinstance(x, Proxy):
            return self._record_call(x, *(() if context is None else (context,)))
        self._check_input(x)
        if context is None and self.context_features is None:
            return self._compute(x)
        self._check_context(x, context)
        # Families whose layers take a context have a second argument.
        compute: Any = self._compute
        out: Tensor = compute(x, context)
        return out

    def _check_context(self, x: Tensor, context: Tensor | None) -> None:
        """Raise ValueError unless ``context`` is one for ``x``, or None if the layer takes none."""
        kind, features = type(self).__name__, self.context_features
        if features is None:
            if context is not None:
                length = context.shape[-1] if context.dim() else 1
                other = f"build it with context_features={length} to give it another, or " * self._accepts_context
                raise ValueError(f"this {kind} computes its context from its input; {other}leave the context out.")
            return
        if context is None:
            raise ValueError(f"this {kind} was built with context_features={features}; call it with (x, context).")
        # A free batch size of an export is not compared.
        sizes = context.shape[1:] if torch.compiler.is_compiling() or is_exporting() else context.shape
        wanted = (x.shape[0], features)[-len(sizes) :] if context.dim() == 2 else None
        if wanted is None or tuple(sizes) != tuple(wanted):
            raise ValueError(
                f"the context of this {kind} must have the shape (B, {features}) with the B={x.shape[0]} of the input; "
                f"got {tuple(context.shape)}."
            )

    def _record_call(self, *inputs: Any) -> Any:
        """Record the call of this layer as one node of the `torch.fx` graph."""
        tracer: Any = inputs[0].tracer
        if tracer.root is self:
            raise TypeError(
                f"torch.fx records the layer {type(self).__name__} as one operation; trace a network that holds it."
            )
        return tracer.create_proxy("call_module", tracer.path_of_module(self), inputs, {})

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
        if name in STATIC_KEYS:
            self._refuse_folding()
            if isinstance(getattr(type(self), name, None), property):
                # `Module.__setattr__` would register a parameter that the property hides.
                object.__setattr__(self, name, value)
                return
        super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As `torch.nn.Module.register_parameter`."""
        if name in STATIC_KEYS:
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
