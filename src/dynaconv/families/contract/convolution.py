"""A convolution with a kernel for each sample: attributes of torch's convolutions, padding, choice of algorithm."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Proxy

from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.checks import check_choice, check_divides, check_images, check_integer
from dynaconv.families.contract.operator import DynamicOperator, record_call
from dynaconv.ops import (
    Cost,
    Geometry,
    cheapest,
    check_output_padding,
    is_exporting,
    per_axis,
    pool_context,
    same_padding,
    swap_channels,
    transposed_geometry,
)
from dynaconv.ops.averaged import averaged, supports_averaged

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
CONV_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)
"""Arguments of torch's convolutions, without bias, device and dtype; transposed ones also have ``output_padding``."""
_GEOMETRY_ATTRIBUTES = frozenset(
    ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "output_padding")
)
"""Attributes that determine which pixels each tap reads."""
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
"""Memory formats with adjacent channels, by number of spatial axes."""
_MAX_CACHED_SHAPES = 64
Pads = tuple[int, ...]
"""Padding in pixels as `torch.nn.functional.pad` takes it: both sides of the last axis, of the axis before it, ..."""


class DynamicConvolution(DynamicOperator):
    """A convolution with the attributes of torch's convolutions, which can be changed at any time."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    output_padding: tuple[int, ...]
    dims: int
    """Number of spatial axes."""
    transposed: bool
    """Whether this is a transposed convolution."""
    _functions: ClassVar[Mapping[str, Callable[..., Tensor]]] = {}
    """The family's algorithms by name."""
    _exported_algorithm: ClassVar[str] = "kernel"
    """Algorithm of ``auto`` during export, and under torch.compile if the sizes leave the choice open."""
    _geometry_and_pads: tuple[Geometry, Pads | None]
    """`geometry`, and the padding to apply to the input first; None for none."""
    _algorithm_by_shape: dict[Any, str]
    """Algorithm that ``auto`` chose, by the shape of the padded input."""

    def _set_arguments(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int] | str,
        dilation: int | Sequence[int],
        groups: int,
        padding_mode: str,
        output_padding: int | Sequence[int] = 0,
    ) -> None:
        """Check the arguments and store them.

        Raises:
            ValueError: one is out of range, or groups does not divide the channels.
        """
        dims = self.dims
        self.in_channels = check_integer("in_channels", in_channels)
        self.out_channels = check_integer("out_channels", out_channels)
        self.kernel_size = per_axis("kernel_size", kernel_size, dims)
        self.stride = per_axis("stride", stride, dims)
        self.dilation = per_axis("dilation", dilation, dims)
        self.groups = check_integer("groups", groups)
        check_divides("groups", groups, "in_channels", in_channels)
        check_divides("groups", groups, "out_channels", out_channels)
        check_choice("padding_mode", padding_mode, ("zeros",) if self.transposed else get_args(PaddingMode))
        self.padding_mode = padding_mode
        self.padding = self._checked_padding(padding)
        self.output_padding = per_axis("output_padding", output_padding, dims, 0)
        if self.transposed:
            check_output_padding(self.output_padding, self.stride, self.dilation)

    def _checked_padding(self, padding: int | Sequence[int] | str) -> tuple[int, ...] | str:
        if not isinstance(padding, str) or self.transposed:
            return per_axis("padding", padding, self.dims, 0)
        check_choice("padding", padding, ("same", "valid"))
        if padding == "same" and set(self.stride) != {1}:
            raise ValueError(f"padding='same' needs stride 1; got stride={self.stride}. Give the padding as numbers.")
        return padding

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        output_size: Sequence[int] | None = None,
    ) -> Tensor:
        """Convolve each sample of ``(B, C_in, *sizes)`` with its own kernel: ``(B, C_out, *out_sizes)``.

        Args:
            x: Input.
            context, mask: See `DynamicOperator.forward`.
            output_size: Sizes of a transposed convolution's output, ``(*out_sizes)`` or ``(B, C_out, *out_sizes)``, in
                place of the output padding; a sequence in the place of ``context``, as torch's layers take it, too.

        Raises:
            ValueError: see `DynamicOperator.forward`; or no output padding gives the output size.
            TypeError: the layer is not transposed, and an output size is given.
        """
        if self.transposed and isinstance(context, list | tuple):
            context, output_size = None, context
        if output_size is None:
            return super().forward(x, context, mask)
        if isinstance(x, Proxy):
            given = {"context": context, "mask": mask, "output_size": output_size}
            out: Tensor = record_call(self, x, **{name: value for name, value in given.items() if value is not None})
            return out
        if not self.transposed:
            raise TypeError(f"`output_size` is an argument of transposed convolutions; {type(self).__name__} is none.")
        return DynamicOperator.forward(self._with_output_size(x, output_size), x, context, mask)

    def call_arguments(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        output_size: Sequence[int] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Return the arguments of a call on which the coefficients depend; see `DynamicOperator.call_arguments`."""
        return super().call_arguments(x, None if isinstance(context, list | tuple) else context, mask)

    def pass_context_on(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        output_size: Sequence[int] | None = None,
    ) -> None:
        """Compute or read the context of the layer's block as `forward` does, without its output."""
        super().pass_context_on(x, None if isinstance(context, list | tuple) else context, mask)

    def _with_output_size(self, x: Tensor, output_size: Sequence[int]) -> Self:
        """Return this layer, or one with the same parameters and the output padding that gives the output size."""
        self._check_input(x)
        sizes, given = tuple(x.shape[2:]), tuple(output_size)
        asked = given[2:] if len(given) == self.dims + 2 else given
        plain = self.geometry._replace(output_padding=(0,) * self.dims)
        least = plain.output_size(*sizes)
        padding = tuple(size - low for size, low in zip(asked, least, strict=False))
        if len(asked) != self.dims or not all(0 <= p < step for p, step in zip(padding, self.stride, strict=True)):
            most = tuple(low + step - 1 for low, step in zip(least, self.stride, strict=True))
            raise ValueError(
                f"output_size={given} must be from {least} to {most} for an input of {sizes}; use one of these, or "
                f"leave it out."
            )
        if padding == self.output_padding:
            return self
        # The copy shares parameters and submodules. Other threads may run the layer itself at once.
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.output_padding = padding
        return twin

    @property
    def conv_weight(self) -> Tensor:
        """``weight`` in the layout of a convolution, ``(..., C_out, C_in / groups, *k)``, also if it is transposed."""
        return swap_channels(self.weight, self.groups, self.dims) if self.transposed else self.weight

    def as_torch(self, kernel: Tensor) -> Tensor:
        """Return kernels ``(..., C_out, C_in / groups, *k)`` in the layout that torch uses for this convolution."""
        return swap_channels(kernel, self.groups, self.dims) if self.transposed else kernel

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms that can evaluate this layer."""
        return tuple(self._functions)

    def algorithm_costs(self, input_shape: tuple[int, ...]) -> dict[str, Cost]:
        """Return each algorithm's cost for an input ``(B, C_in, *sizes)``, by which ``algorithm="auto"`` chooses."""
        x = torch.empty(input_shape, device="meta")
        self._check_input(x)
        return self._costs_of(tuple(self._padded(x).shape))

    @abstractmethod
    def _costs_of(self, padded: tuple[int, ...]) -> dict[str, Cost]:
        """Return each algorithm's cost for an input of this shape, which includes the padding of `_padded`."""

    def _choose(self, padded: Tensor) -> str:
        """Return the algorithm for this input: the one that was set, or the cheapest, computed once per shape."""
        algorithm: str = self.algorithm
        if algorithm != "auto":
            return algorithm
        if is_exporting():
            return self._exported_algorithm
        shape: Any = padded.shape
        # The sizes of tensor subclasses may be symbolic.
        if type(padded) is not Tensor or torch.compiler.is_compiling():
            return cheapest(self._costs_of(shape), undecided=self._exported_algorithm)
        cached = self._algorithm_by_shape.get(shape)
        if cached is None:
            if len(self._algorithm_by_shape) >= _MAX_CACHED_SHAPES:
                self._algorithm_by_shape.clear()
            self._algorithm_by_shape[shape] = cached = cheapest(self._costs_of(shape))
        return cached

    @property
    def input_features(self) -> int:
        """``in_channels``."""
        return self.in_channels

    def _average(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return pool_context(x, 1, context_dtype(x.dtype), mask)

    def _averaged(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the input, to be used in place of ``x``, and that of the branch, as `_context` does.

        Compiled operators average ``x`` if that is all the branch reads.
        """
        if context is None and mask is None and supports_averaged(x):
            return averaged(x)
        return x, self._context(x, context, mask)

    def modulate(self, x: Tensor) -> Tensor:
        """The feature maps, ``(B, C_in, H, W)``, that the kernels are applied to: ``x`` itself in most families."""
        self._check_input(x)
        return x

    def _function(self, padded: Tensor) -> Callable[..., Tensor]:
        """Return the function of the algorithm for this input."""
        return self._functions[self._choose(padded)]

    def _check_input(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or x.dim() != self.dims + 2 or x.shape[1] != self.in_channels or x.is_complex():
            check_images(x, self.in_channels, self.dims, type(self).__name__)

    def _padded(self, x: Tensor) -> Tensor:
        """Return ``x`` with the padding that the algorithms do not apply themselves."""
        if not (is_exporting() or torch.compiler.is_compiling()):
            x = _normalise_batch_stride(x)
        _, pads = self._geometry_and_pads
        if pads is None:
            return x
        return F.pad(x, pads, "constant" if self.padding_mode == "zeros" else self.padding_mode)

    @property
    def geometry(self) -> Geometry:
        """Stride, padding, dilation and groups of the convolution that runs on the padded input."""
        return self._geometry_and_pads[0]

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _GEOMETRY_ATTRIBUTES and all(map(self.__dict__.__contains__, _GEOMETRY_ATTRIBUTES)):
            # Set here and not in the forward pass, because several threads may run the forward pass at once.
            self._geometry_and_pads, self._algorithm_by_shape = self._make_geometry(), {}

    def _make_geometry(self) -> tuple[Geometry, Pads | None]:
        if self.transposed:
            assert not isinstance(self.padding, str)
            return transposed_geometry(
                self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.output_padding
            ), None
        pads = self._pads()
        # Every algorithm applies symmetric zero padding itself.
        simple = self.padding_mode == "zeros" and pads[::2] == pads[1::2]
        inside = pads[::-2] if simple else (0,) * self.dims
        geometry = Geometry(self.kernel_size, self.stride, inside, self.dilation, self.groups)
        return geometry, None if simple or not any(pads) else pads

    def _pads(self) -> Pads:
        if self.padding == "valid":
            return (0, 0) * self.dims
        if self.padding == "same":
            return tuple(side for pair in reversed(same_padding(self.kernel_size, self.dilation)) for side in pair)
        assert not isinstance(self.padding, str)
        return tuple(side for size in reversed(self.padding) for side in (size, size))

    def extra_repr(self) -> str:
        """The arguments that differ from the defaults of torch's convolutions."""
        zeros, ones = (0,) * self.dims, (1,) * self.dims
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding!r}"] if self.padding != zeros else []
        parts += [f"output_padding={self.output_padding}"] if self.output_padding != zeros else []
        parts += [f"dilation={self.dilation}"] if self.dilation != ones else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"padding_mode={self.padding_mode!r}"] if self.padding_mode != "zeros" else []
        return ", ".join(parts)


def conv_arguments(conv: Any) -> dict[str, Any]:
    """Return the arguments of the static convolution like ``conv``, without bias, device and dtype."""
    names = (*CONV_ARGUMENTS, "output_padding") if conv.transposed else CONV_ARGUMENTS
    return {name: getattr(conv, name) for name in names}


def is_channels_last(weight: Tensor, dims: int) -> bool:
    """Whether a kernel, or each of K kernels, is stored in channels_last format, also for kernels of a single tap."""
    channels = weight.shape[-dims - 1]
    return dims > 1 and channels > 1 and weight.stride()[-dims - 1] == 1 and weight.stride()[-1] == channels


def _normalise_batch_stride(x: Tensor) -> Tensor:
    """Copy ``x`` if it is a single channels_last image whose batch stride is not the default one.

    The stride of an axis of length one has no meaning, but with such strides the weight's gradient of a grouped
    `torch.nn.functional.conv2d` is wrong on the CPU (torch 2.14).
    """
    if x.shape[0] == 1 and x.stride(0) != x.numel() and x.dim() > 3:
        layout = CHANNELS_LAST[x.dim() - 2]
        if x.is_contiguous(memory_format=layout):
            return x.clone(memory_format=layout)
    return x
