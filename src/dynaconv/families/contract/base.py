"""The contract of every dynamic convolution."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from dynaconv.families.contract.checks import check_real
from dynaconv.families.contract.convolution import (
    CHANNELS_LAST,
    DynamicConvolution,
    PaddingMode,
    conv_arguments,
    is_channels_last,
)
from dynaconv.families.contract.layer import DynamicLayer, adopt_static, fill_static
from dynaconv.families.contract.operator import STATIC_KEYS
from dynaconv.families.contract.static import STATIC_CLASSES, check_static, copy_hooks_and_attributes


class DynamicConv(DynamicConvolution, DynamicLayer):
    """A convolution whose kernel depends on its input, in any dimension, also transposed; base of every family.

    A family implements this class once. Its layers are subclasses that also inherit from one of `DynamicConv1d`,
    `DynamicConv2d`, `DynamicConv3d`, `DynamicConvTranspose1d`, `DynamicConvTranspose2d` and `DynamicConvTranspose3d`.

    Constructor arguments and attributes are those of the class of torch that `static_class` names. The static kernel is
    the parameter ``weight``, ``(C_out, C_in / groups, *k)`` or, transposed, ``(C_in, C_out / groups, *k)``; a family
    that mixes K kernels stacks them there along a leading axis. A static layer's state dict loads into both: with
    neutral coefficients, those of zero logits, the layer then has the static kernel.

    `forward(x)` convolves each sample with its own `kernel(x)` and adds its `sample_bias(x)`, by the algorithm that is
    set; ``auto`` chooses the cheapest one.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for the class of torch.
        options: Options of the family: the fields of `config_class`.

    Raises:
        ValueError: an argument is out of range, or groups does not divide the channels.
        TypeError: an option is unknown.
    """

    transposed = False
    neutral_gain: float = 1.0
    """Factor of neutral coefficients on the kernel, or on the mean of the K kernels."""
    neutral_bias_gain: float = 1.0
    """Factor of neutral coefficients on the bias, or on the mean of the K biases."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._config = self._make_config(options)
        self._set_arguments(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self._make_parameters(bias, device, dtype)

    def _make_parameters(self, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create and initialise every part of a layer whose arguments and config are set."""
        config = self._config
        self.context_features = getattr(config, "context_features", None)
        kernels, biases = self._leading_shapes(config)
        rows, columns = (
            (self.in_channels, self.out_channels) if self.transposed else (self.out_channels, self.in_channels)
        )
        shape = (*kernels, rows, columns // self.groups, *self.kernel_size)
        kernel = check_real(torch.empty(shape, device=device, dtype=dtype))
        self._store_kernel(kernel)
        if bias:
            self.bias = nn.Parameter(torch.empty((*biases, self.out_channels), device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self._build(config, kernel.device, kernel.dtype)
        self.reset_parameters()

    def _store_kernel(self, kernel: Tensor) -> None:
        """Store the uninitialised static kernel, or K of them, as the parameter ``weight``.

        A family without such a parameter overrides this, defines ``weight`` as a property and `stored_kernel` as the
        parameter that ``weight`` depends on, and overrides `_from_static` and `_draw`, or `_static_value`,
        `_set_static` and `reset_parameters`. It loads the key ``weight`` of a static layer's state dict.
        """
        self.weight = nn.Parameter(kernel)

    @classmethod
    def static_class(cls) -> type[Any]:
        """Return the class of torch's convolutions that has this dimension: what `from_conv` takes."""
        return STATIC_CLASSES[cls.dims, cls.transposed]

    def static_axes(self, name: str) -> int:
        """Return the number of axes of the static ``weight`` or ``bias``."""
        return self.dims + 2 if name == "weight" else 1

    def _leading_shapes(self, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the leading axes of ``weight`` and ``bias``: ``(K,)`` if the family mixes K of them, else ``()``."""
        return (), ()

    @abstractmethod
    def _build(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Build the parts that the family adds to the static kernel: branch, factors, context norm."""

    def reset_parameters(self) -> None:
        """Initialise weight and bias, or each of the K, as `torch.nn.Conv2d` does, and reset the branch."""
        self._reset_static()
        self._reset_branch()

    def _neutralise(self) -> None:
        """Make the coefficients neutral for every input, such that training can change them."""
        self.branch.neutralise()

    def static_conv(self) -> Any:
        """Return the static convolution that this layer computes while its coefficients are neutral.

        It has new parameters, and the layer's `requires_grad`, dtype, device, memory format and mode.

        Raises:
            RuntimeError: the coefficients are not neutral, so no static convolution is equivalent.
        """
        return self.static_layer()

    def static_with(self, weight: Tensor, bias: Tensor | None) -> Any:
        """Return a static convolution with copies of ``weight`` and ``bias``, see `DynamicLayer.static_with`."""
        stored = self.stored_kernel
        conv = self.static_class()(
            **conv_arguments(self), bias=bias is not None, device=stored.device, dtype=stored.dtype
        )
        if is_channels_last(self.weight, self.dims):
            conv.to(memory_format=CHANNELS_LAST[self.dims])
        return fill_static(self, conv, weight, bias)

    def _static_value(self, name: str) -> Tensor:
        """Return the static ``weight`` or ``bias`` that neutral coefficients give."""
        own: Tensor = getattr(self, name)
        gain = self.neutral_gain if name == "weight" else self.neutral_bias_gain
        return (own.mean(0) if own.dim() > self.static_axes(name) else own) * gain

    def _set_static(self, name: str, static: Tensor) -> None:
        """Set the parameter ``name`` such that neutral coefficients give ``static``."""
        self._stored(name).copy_(self._from_static(name, static))

    def _stored(self, name: str) -> Any:
        """Return the parameter that stores ``weight`` or ``bias``."""
        return self.stored_kernel if name == "weight" else self.bias

    @classmethod
    def from_conv(cls, conv: Any, **hyperparameters: Any) -> Self:
        """Return a dynamic layer that computes the function of ``conv`` until it is trained.

        Args:
            conv: A `static_class`, whose arguments, weights, dtype, device and mode the layer takes over.
            hyperparameters: Options of this class.

        Raises:
            TypeError: ``conv`` is not a `static_class` or overrides its computation, or an option is unknown.
            ValueError: an option is invalid for the convolution.
        """
        layer = cls.like(conv, **hyperparameters)
        layer._neutralise()
        return layer

    @classmethod
    def fresh_like(cls, conv: Any, **hyperparameters: Any) -> Self:
        """As `like`, for a network that is trained from scratch, with the effective learning rate of ``conv``.

        Assumes that a normalisation layer follows. The kernel's scale then does not change the output, but it sets the
        effective learning rate, which falls with 1/|W|^2. `like` makes ODConv's kernels 4 to 8 times and SE's twice as
        large as ``conv``'s, which would divide the effective learning rate by 16 to 64 and by 4.

        Raises:
            TypeError: ``conv`` is not a `static_class` or overrides its computation, or an option is unknown.
            ValueError: an option is invalid for the convolution.
        """
        layer = cls.like(conv, **hyperparameters)
        # With a gain above 1 (a sum of kernels), the sum is as large as `conv`'s kernel and changes with each term.
        if layer.neutral_gain < 1:
            with torch.no_grad():
                stored = layer.stored_kernel
                stacked = stored.dim() > layer.static_axes("weight")
                mean = stored.mean(0) if stacked else stored
                stored.sub_((1 - layer.neutral_gain) * mean)
        return layer

    @classmethod
    def like(cls, conv: Any, **hyperparameters: Any) -> Self:
        """Return a layer with ``conv``'s arguments, weights, dtype, device and mode, and a new dynamic part.

        Mixed kernels keep the differences of newly initialised ones; their mean is set such that neutral coefficients
        give ``conv``'s kernel.

        Raises:
            TypeError: ``conv`` is not a `static_class` or overrides its computation, or an option is unknown.
            ValueError: an option is invalid for the convolution.
        """
        check_static(conv, cls.static_class(), f"{cls.__name__}.from_conv")
        weight = conv.weight
        layer = cls(
            **conv_arguments(conv),
            bias=conv.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            **hyperparameters,
        )
        if is_channels_last(conv.weight, cls.dims):
            layer.to(memory_format=CHANNELS_LAST[cls.dims])
        adopt_static(layer, conv)
        copy_hooks_and_attributes(conv, layer)
        return layer

    def _from_static(self, name: str, static: Tensor) -> Tensor:
        """Return the value of the parameter that stores ``name`` for which neutral coefficients give ``static``.

        Mixed kernels keep their differences from their mean. On the meta device, which holds no values, the differences
        are those of newly initialised kernels.
        """
        own: Tensor = self._stored(name).detach()
        mean = static.to(own.dtype) / (self.neutral_gain if name == "weight" else self.neutral_bias_gain)
        return mean if own.dim() == static.dim() else self._with_mean(name, mean)

    def _with_mean(self, name: str, mean: Tensor) -> Tensor:
        """Return the stacked kernels or biases of the layer with another mean."""
        own: Tensor = self._stored(name).detach()
        if own.is_meta:
            own = torch.empty_like(own, device=mean.device)
            self._draw(name, own)
        return self._around(mean, own)

    def _around(self, mean: Tensor, own: Tensor) -> Tensor:
        """Return the stacked kernels or biases ``own`` with another mean."""
        return mean + (own - own.mean(0)).to(mean.device)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        given = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        if given.keys() <= set(STATIC_KEYS):
            for name, value in given.items():
                own = getattr(self, name)
                shape = None if own is None else own.shape[-self.static_axes(name) :]
                fits = isinstance(value, Tensor) and value.shape == shape
                if fits:
                    ours = self._from_static(name, value)
                    assigned = local_metadata.get("assign_to_params_buffers", False)
                    state_dict[prefix + name] = ours.to(value.dtype) if assigned else ours
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def each(tensor: Tensor) -> Tensor:
            # `Module.to` chooses a memory format by the number of axes; flattened, K kernels have those of one kernel.
            if tensor.dim() == self.dims + 3 and type(tensor.data) is Tensor:
                return fn(tensor.flatten(0, 1)).reshape(tensor.shape)
            return fn(tensor)

        super()._apply(each, recurse)  # type: ignore[no-untyped-call]
        return self

    def _reset_static(self) -> None:
        """Initialise weight and bias, or each of the K, as `static_class` does."""
        self._draw("weight", self.stored_kernel)
        if self.bias is not None:
            self._draw("bias", self.bias)

    def _draw(self, name: str, into: Tensor) -> None:
        if name == "weight":
            kernels: Any = into if into.dim() > self.static_axes(name) else (into,)
            for kernel in kernels:
                nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        else:
            columns = self.out_channels if self.transposed else self.in_channels
            bound = 1 / math.sqrt(columns // self.groups * math.prod(self.kernel_size))
            nn.init.uniform_(into, -bound, bound)


class DynamicConv1d(DynamicConv):
    """A dynamic convolution with the arguments of `torch.nn.Conv1d`."""

    dims = 1


class DynamicConv2d(DynamicConv):
    """A dynamic convolution with the arguments of `torch.nn.Conv2d`."""

    dims = 2


class DynamicConv3d(DynamicConv):
    """A dynamic convolution with the arguments of `torch.nn.Conv3d`."""

    dims = 3


class DynamicConvTranspose(DynamicConv):
    """A dynamic transposed convolution; its arguments have torch's order, which differs from that of convolutions."""

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: Literal["zeros"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        DynamicLayer.__init__(self)
        self._config = self._make_config(options)
        arguments = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self._set_arguments(*arguments, output_padding)
        self._make_parameters(bias, device, dtype)


class DynamicConvTranspose1d(DynamicConvTranspose):
    """A dynamic convolution with the arguments of `torch.nn.ConvTranspose1d`."""

    dims = 1


class DynamicConvTranspose2d(DynamicConvTranspose):
    """A dynamic convolution with the arguments of `torch.nn.ConvTranspose2d`."""

    dims = 2


class DynamicConvTranspose3d(DynamicConvTranspose):
    """A dynamic convolution with the arguments of `torch.nn.ConvTranspose3d`."""

    dims = 3
