"""Base class of the operators whose kernel depends on their input, trainable or deployed."""

import copy
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor, nn
from torch.fx import Proxy

from dynaconv.errors import check_type
from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.checks import checked_mask, has_shape

if TYPE_CHECKING:
    from dynaconv.families.contract.block import BlockContext

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
    """Whether layers of this class can be built with ``context_features``."""
    context_features: int | None = None
    """Length F of the context that `forward` takes beside the input; None: the branch reads the input."""
    block_context: "BlockContext | None" = None
    """The context that layers of a block share if none is given to them; None for other layers."""
    place_in_block: int = 0
    """Number of the layer in its block; the first layer, 0, computes the context."""

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
    def coefficients(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Any:
        """The coefficients that the dynamic branch computes: a named tuple of tensors, batch first. As `forward`."""

    @abstractmethod
    def kernel(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The kernel of each sample of ``x``, ``(B, *weight.shape)`` of the static operator. Arguments as `forward`."""

    def sample_bias(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor | None:
        """The bias of each sample, ``(B, C_out)``, or None if the layer adds no bias. Arguments as `forward`."""
        return None if self.bias is None else self.bias.expand(x.shape[0], -1)

    @abstractmethod
    def _check_input(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` is a valid input."""

    @abstractmethod
    def _compute(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Run `forward` on a checked input, and a context and a mask that `_checked` returned."""

    @abstractmethod
    def _choose(self, x: Tensor) -> str:
        """Return the algorithm for this input: the one that was set, or the cheapest."""

    @property
    @abstractmethod
    def input_features(self) -> int:
        """Number of channels or features of the input."""

    @abstractmethod
    def _average(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the average of each sample of ``x``, ``(B, input_features)``, in the dtype of the branch."""

    def _pooled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return what the branch reads of ``x``, ``(B, F)``, if the layer takes no context."""
        return self._average(x, mask)

    def _context(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the input of the branch, ``(B, F)`` in its dtype: the given context, or the averaged ``x``."""
        return self._pooled(x, mask) if context is None else context.to(context_dtype(x.dtype))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Convolve each sample of ``(B, C_in, *sizes)`` with its own kernel: ``(B, C_out, *out_sizes)``.

        A linear layer maps ``(..., in_features)`` to ``(..., out_features)``, each row with its own matrix.

        Args:
            x: Input.
            context: Input of the branch, ``(B, context_features)``, if the layer was built with `context_features`.
            mask: Positions that the average of ``x`` includes, ``(B, *sizes)`` or ``(B, 1, *sizes)``, bool or 0 and 1;
                others are padding. None: all. It changes the kernel, not the input of the convolution.

        Raises:
            ValueError: the input has an invalid shape or is complex, or the context or the mask is missing, unexpected
                or of another shape, or the layer shares the context of a layer that did not run before it.
        """
        if isinstance(x, Proxy):
            given = {"context": context, "mask": mask}
            out: Tensor = record_call(self, x, **{name: value for name, value in given.items() if value is not None})
            return out
        context, mask = self._checked(x, context, mask, running=True)
        # The layers of a family that takes neither have one argument.
        return self._compute(x) if context is None and mask is None else self._compute(x, context, mask)

    def _checked(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None, *, running: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        """Check the arguments of a call; return the context and the mask, ``(B, 1, *sizes)`` in bool.

        Args:
            x, context, mask: As for `forward`.
            running: Whether this is the forward pass, in which the layers of a block pass on their context.

        Raises:
            ValueError: see `forward`.
        """
        self._check_input(x)
        if context is None and mask is None and self.context_features is None:
            return None, None
        if context is None and self.block_context is not None:
            return self._context_of_block(self.block_context, x, mask, running=running), None
        self._check_context(x, context)
        return context, None if mask is None else self._checked_mask(x, mask)

    def _context_of_block(self, block: "BlockContext", x: Tensor, mask: Tensor | None, *, running: bool) -> Tensor:
        """Return the context of the layer's block: computed and passed on in the first layer, read in the others."""
        kind = type(self).__name__
        if self.place_in_block:
            if mask is not None:
                self._checked_mask(x, mask)
            return block.read(self.place_in_block, x, kind, running=running)
        if mask is not None:
            mask = checked_mask(mask, x.shape[0], self._mask_sizes(x), kind)
        context = self._average(x, mask)
        if running:
            block.write(context)
        return context

    def pass_context_on(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> None:
        """Compute or read the context of the layer's block as `forward` does, without its output."""
        self._checked(x, context, mask, running=True)

    def call_arguments(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        """Return the arguments of a call without trailing ones that are None, each with the batch as first axis."""
        if context is None and self.block_context is not None:
            context, mask = self._context_of_block(self.block_context, x, mask, running=False), None
        given = (x, context, mask)
        return given if mask is not None else given[: 1 + (context is not None)]

    def _mask_sizes(self, x: Tensor) -> tuple[int, ...]:
        """Return the lengths of the axes over which `_pooled` averages."""
        return tuple(x.shape[2:])

    def _mask_refusal(self) -> str | None:
        """Return why the layer takes no mask, as a clause; None if it takes one."""
        if self.context_features is not None:
            return "reads a context that is given, which a mask does not change"
        return None

    def _checked_mask(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the mask as ``(B, 1, *sizes)`` in bool.

        Raises:
            ValueError: the layer takes no mask, or the mask has another shape or values other than 0 and 1.
        """
        kind = type(self).__name__
        if (reason := self._mask_refusal()) is not None:
            raise ValueError(f"this {kind} {reason}; leave the mask out.")
        return checked_mask(mask, x.shape[0], self._mask_sizes(x), kind)

    def _check_context(self, x: Tensor, context: Tensor | None) -> None:
        """Raise ValueError unless ``context`` is one for ``x``, or None if the layer takes none."""
        kind, features = type(self).__name__, self.context_features
        if context is not None:
            check_type("context", context, Tensor)
        if features is None:
            if context is not None:
                length = context.shape[-1] if context.dim() else 1
                other = f"build it with context_features={length} to give it another, or " * self._accepts_context
                raise ValueError(f"this {kind} computes its context from its input; {other}leave the context out.")
            return
        if context is None:
            raise ValueError(f"this {kind} was built with context_features={features}; call it with (x, context).")
        if not has_shape(context, (x.shape[0], features)):
            raise ValueError(
                f"the context of this {kind} must have the shape (B, {features}) with the B={x.shape[0]} of the input; "
                f"got {tuple(context.shape)}."
            )

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


def record_call(layer: nn.Module, x: Any, **further: Any) -> Any:
    """Record the call of a layer as one node of the `torch.fx` graph."""
    tracer: Any = x.tracer
    if tracer.root is layer:
        raise TypeError(
            f"torch.fx records the layer {type(layer).__name__} as one operation; trace a network that holds it."
        )
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), (x,), further)
