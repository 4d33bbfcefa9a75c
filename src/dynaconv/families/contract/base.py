"""The contract of every dynamic convolution."""

import copy
import dataclasses
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from dynaconv.families.contract.affine import add_to, multiply_rows
from dynaconv.families.contract.branch import BranchLinear, context_dtype
from dynaconv.families.contract.checks import (
    check_choice,
    check_divides,
    check_images,
    check_positive,
    check_real,
    pair,
)
from dynaconv.families.contract.config import LayerConfig
from dynaconv.families.contract.norms import fold_before
from dynaconv.families.contract.options import describe
from dynaconv.families.contract.static import carry_attachments, check_static
from dynaconv.ops import Cost, Geometry, choose, is_exporting

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
STATIC_AXES = {"weight": 4, "bias": 1}
"""What a static convolution's state dict holds, and how many axes each tensor has."""


class DynamicLayer(nn.Module, ABC):
    """A layer whose kernel depends on its input, in the place of a convolution or a linear layer.

    `torch.fx` takes it for one operation, like a layer of `torch.nn`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    context_norm: nn.Module | None
    """What the context goes through before the branch."""
    config_class: ClassVar[type[LayerConfig]] = LayerConfig
    """Its fields are the options of the constructor."""
    _without: ClassVar[tuple[str, ...]] = ()
    """Fields of the config that the layer has no use for."""
    _config: Any

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        describe(cls, cls.config_class, cls._without)

    @classmethod
    def _make_config(cls, options: Mapping[str, Any]) -> Any:
        known = {field.name for field in dataclasses.fields(cls.config_class)}.difference(cls._without)
        for name in options:
            if name not in known:
                raise TypeError(f"{cls.__name__} got an unexpected keyword argument {name!r}")
        return cls.config_class(**options)

    @property
    def config(self) -> Any:
        """The options that the layer was given, from which an equal layer can be built: its family's `LayerConfig`."""
        return self._config

    @config.setter
    def config(self, value: Any) -> None:
        self._config = value

    @property
    @abstractmethod
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms that can evaluate this layer."""

    @property
    def algorithm(self) -> Any:
        """``auto`` or one of `algorithms`; may be set at any time, which replaces `config`."""
        return self.config.algorithm

    @algorithm.setter
    def algorithm(self, value: Any) -> None:
        self.config = dataclasses.replace(self.config, algorithm=value)

    @abstractmethod
    def _check_input(self, x: Tensor) -> None:
        """Raise ValueError unless the layer takes ``x``."""

    @abstractmethod
    def _compute(self, x: Tensor) -> Tensor:
        """`forward` for an input that was checked."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each sample of ``(B, C_in, H, W)`` with its own kernel: ``(B, C_out, H_out, W_out)``.

        A linear layer maps ``(..., in_features)`` to ``(..., out_features)``, each row with its own matrix.

        Raises:
            ValueError: the input has another shape or is complex.
        """
        if isinstance(x, Proxy):
            return self._recorded(x)
        self._check_input(x)
        return self._compute(x)

    def _recorded(self, x: Proxy) -> Any:
        """The call of this layer as one node of the graph that `torch.fx` records."""
        tracer: Any = x.tracer
        if tracer.root is self:
            raise TypeError(
                f"torch.fx records a {type(self).__name__} as one operation; trace a network that holds it."
            )
        return tracer.create_proxy("call_module", tracer.path_of_module(self), (x,), {})

    def _reset_branch(self) -> None:
        """Draw the branch anew and forget the contexts seen."""
        for module in (self.get_submodule("branch"), self.context_norm):
            if module is not None:
                module.reset_parameters()  # type: ignore[operator]

    @property
    def _first_map(self) -> BranchLinear:
        """The linear map of the branch that reads the context."""
        first = self.get_submodule("branch.squeeze")
        assert isinstance(first, BranchLinear)
        return first

    def _fold_context_norm(self) -> None:
        """Take a norm of the context by fixed statistics into the branch's first map; a layer norm stays."""
        if self.context_norm is not None and not isinstance(self.context_norm, nn.LayerNorm):
            fold_before(self.context_norm, self._first_map)
            self.context_norm = None
            self.config = dataclasses.replace(self.config, context_norm=None)

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
        self._refuse_folding(sys._getframe(2).f_code.co_name)
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        if name in STATIC_AXES:
            self._refuse_folding(sys._getframe(1).f_code.co_name)
        super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As `torch.nn.Module.register_parameter`."""
        if name in STATIC_AXES:
            self._refuse_folding(sys._getframe(1).f_code.co_name)
        super().register_parameter(name, param)

    def _refuse_folding(self, function: str) -> None:
        """Refuse to let another library fold a batch norm into ``weight`` and ``bias``, told by its function's name.

        torch's `fuse_conv_bn_eval`, which folds into a copy, ultralytics' `fuse_conv_and_bn` and mmcv's
        `_fuse_conv_bn` know of no other part of a kernel. The folded layer would compute something else.
        """
        if "fuse" in function:
            raise TypeError(
                f"{function} folds a batch norm into `weight` and `bias` alone, and the kernel of a "
                f"{type(self).__name__} has other parts; call dynaconv.deploy(network) first, which folds it."
            )


class DynamicConv2d(DynamicLayer):
    """A 2-D convolution whose kernel depends on its input; base of every family.

    Constructor arguments and attributes are those of `torch.nn.Conv2d`. The static kernel is the parameter ``weight``,
    ``(C_out, C_in / groups, k_h, k_w)``; a family that mixes K kernels has them stacked there, K first. A static
    layer's state dict loads into both: neutral coefficients, those of logits zero, then give the static kernel.

    `forward(x)` equals convolving each sample with its own `kernel(x)` and adding its `sample_bias(x)`, by the
    cheapest algorithm.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.
        options: Those of the family, the fields of `config_class`.

    Raises:
        ValueError: an argument is out of range, or groups does not divide the channels.
        TypeError: an option is unknown.
    """

    shift: nn.Parameter | None
    """A part of the bias that no coefficient touches, ``(C_out,)``; only `absorb_affine` makes one."""
    _functions: ClassVar[Mapping[str, Callable[..., Tensor]]] = {}
    """The family's algorithms by name."""
    _exported_algorithm: ClassVar[str] = "kernel"
    """What ``auto`` means in an exported graph."""
    neutral_gain: float = 1.0
    """What neutral coefficients multiply the kernel by, or the mean of the K kernels."""
    neutral_bias_gain: float = 1.0
    """What neutral coefficients multiply the bias by, or the mean of the K biases."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._config = config = self._make_config(options)
        self.in_channels = check_positive("in_channels", in_channels)
        self.out_channels = check_positive("out_channels", out_channels)
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = pair("stride", stride)
        self.dilation = pair("dilation", dilation)
        self.groups = check_positive("groups", groups)
        check_divides("groups", groups, "in_channels", in_channels)
        check_divides("groups", groups, "out_channels", out_channels)
        check_choice("padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
        self.padding_mode = padding_mode
        self.padding = self._checked_padding(padding)
        self.transposed = False
        self.output_padding = (0, 0)
        kernels, biases = self._stacks(config)
        shape = (*kernels, out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(check_real(torch.empty(shape, device=device, dtype=dtype)))
        if bias:
            self.bias = nn.Parameter(torch.empty((*biases, out_channels), device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.register_parameter("shift", None)
        self._build(config, self.weight.device, self.weight.dtype)
        self.reset_parameters()

    def _stacks(self, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What comes first in the shapes of ``weight`` and ``bias``: the number of kernels that a family mixes."""
        return (), ()

    @abstractmethod
    def _build(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Make what the family has beside the static kernel: branch, factors, the norm of the context."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Initialise every parameter."""

    @abstractmethod
    def coefficients(self, x: Tensor) -> Any:
        """What the dynamic branch computes for ``x``, ``(B, C_in, H, W)``: a named tuple of tensors, batch first."""

    @abstractmethod
    def kernel(self, x: Tensor) -> Tensor:
        """The kernel of each sample of ``x``, ``(B, C_out, C_in / groups, k_h, k_w)``."""

    def sample_bias(self, x: Tensor) -> Tensor | None:
        """The bias of each sample of ``x``, ``(B, C_out)``, or None when the layer adds none."""
        return None if self.bias is None else self.bias.expand(x.shape[0], -1)

    def absorb_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Make the layer compute ``scale * forward(x) + shift``, so that a fixed norm behind it is no longer needed.

        Args:
            scale, shift: One number a channel out, ``(C_out,)``.

        Raises:
            ValueError: the family cannot take this scale; the layer is as it was.
        """
        self.weight = multiply_rows(self.weight, scale, axis=-4)
        if self.bias is not None:
            self.bias = multiply_rows(self.bias, scale)
        if self.shift is not None:
            self.shift = multiply_rows(self.shift, scale)
        self._add_fixed(shift)

    def _add_fixed(self, shift: Tensor) -> None:
        """Add a vector ``(C_out,)`` to the output of every sample."""
        self.shift = add_to(self.shift, shift, self.weight)

    def fold_constants(self) -> None:
        """Compute once what forward passes in eval mode would compute from parameters alone; the function stays.

        Afterwards the layer is for inference: norms in the branch are gone, and a half-precision layer's branch, which
        computes in float32 anyway, holds float32.
        """
        self.get_submodule("branch").to(context_dtype(self.weight.dtype))
        self._fold_context_norm()

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms that can evaluate this layer."""
        return tuple(self._functions)

    def algorithm_costs(self, input_shape: tuple[int, int, int, int]) -> dict[str, Cost]:
        """What each algorithm would cost on an input ``(B, C_in, H, W)``, as ``algorithm="auto"`` sees it."""
        x = torch.empty(input_shape, device="meta")
        self._check_input(x)
        return self._costs_of(self._padded(x))

    @abstractmethod
    def _costs_of(self, padded: Tensor) -> dict[str, Cost]:
        """What each algorithm would cost on this input, padded by `_padded`."""

    def _choose(self, padded: Tensor) -> str:
        """The algorithm for this input: the one that was set, or the cheapest."""
        return choose(self.algorithm, lambda: self._costs_of(padded), exported=self._exported_algorithm)

    @abstractmethod
    def _neutralise(self) -> None:
        """Make the coefficients neutral whatever the input, in a way that training can leave."""

    @property
    @abstractmethod
    def is_neutral(self) -> bool:
        """Whether the layer computes what a static convolution does, whatever its input."""

    def static_conv(self) -> nn.Conv2d:
        """The convolution that this layer computes while its coefficients are neutral.

        Its weight and bias are new parameters with what is trainable, the dtype, device, memory format and mode here.

        Raises:
            RuntimeError: the coefficients are not neutral, so no static convolution does the same.
        """
        if not self.is_neutral:
            raise RuntimeError(f"this {type(self).__name__} is not neutral: its kernel depends on the input.")
        conv = nn.Conv2d(**conv_arguments(self), device=self.weight.device, dtype=self.weight.dtype)
        if is_channels_last(self.weight):
            conv.to(memory_format=torch.channels_last)
        gains = {"weight": self.neutral_gain, "bias": self.neutral_bias_gain}
        with torch.no_grad():
            for name, axes in STATIC_AXES.items():
                own = getattr(self, name)
                if own is not None:
                    parameter = getattr(conv, name)
                    parameter.copy_((own.mean(0) if own.dim() > axes else own) * gains[name])
                    parameter.requires_grad_(own.requires_grad)
        carry_attachments(self, conv)
        return conv.train(self.training)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **hyperparameters: Any) -> Self:
        """A dynamic layer that computes what ``conv`` computes, until it is trained.

        Args:
            conv: The convolution to take arguments, weights, dtype, device and modes from.
            hyperparameters: Keyword-only arguments of this class.

        Raises:
            TypeError: ``conv`` is no `torch.nn.Conv2d` or computes something else, or a hyperparameter is unknown.
            ValueError: a hyperparameter does not fit.
        """
        layer = cls.like(conv, **hyperparameters)
        layer._neutralise()
        return layer

    @classmethod
    def fresh_like(cls, conv: nn.Conv2d, **hyperparameters: Any) -> Self:
        """As `like`, for a network that is trained from the start, with kernels that learn as fast as ``conv``'s.

        What follows is thought to normalise, as batch norms do. The scale of a kernel then has no effect on the
        function, but the larger a kernel is the less a step turns it: `like` makes ODConv's kernels 4 to 8 times and
        SE's twice as large, and they would learn 16 to 64 and 4 times more slowly.

        Raises:
            TypeError: ``conv`` is no `torch.nn.Conv2d` or computes something else, or a hyperparameter is unknown.
            ValueError: a hyperparameter does not fit.
        """
        layer = cls.like(conv, **hyperparameters)
        # A sum of kernels, whose gain is above one, is as large as `conv`'s and moves with each of its parts.
        if layer.neutral_gain < 1:
            with torch.no_grad():
                stacked = layer.weight.dim() > STATIC_AXES["weight"]
                mean = layer.weight.mean(0) if stacked else layer.weight
                layer.weight.sub_((1 - layer.neutral_gain) * mean)
        return layer

    @classmethod
    def like(cls, conv: nn.Conv2d, **hyperparameters: Any) -> Self:
        """A layer with the arguments, weights, dtype, device and modes of ``conv``, its dynamic part as fresh.

        Where kernels are mixed they differ as fresh ones do, around what gives ``conv``'s at neutral coefficients.

        Raises:
            TypeError: ``conv`` is no `torch.nn.Conv2d` or computes something else, or a hyperparameter is unknown.
            ValueError: a hyperparameter does not fit.
        """
        check_static(conv, nn.Conv2d, f"{cls.__name__}.from_conv")
        weight = conv.weight
        layer = cls(**conv_arguments(conv), device=weight.device, dtype=weight.dtype, **hyperparameters)
        if is_channels_last(conv.weight):
            layer.to(memory_format=torch.channels_last)
        adopt_static(layer, conv)
        carry_attachments(conv, layer)
        return layer

    def _from_static(self, name: str, static: Tensor) -> Tensor:
        """The parameter ``name`` that neutral coefficients turn into ``static``.

        Kernels keep how they differ. Those of a layer on the meta device, which has no numbers, differ as fresh ones.
        """
        own: Tensor = getattr(self, name).detach()
        mean = static.to(own.dtype) / (self.neutral_gain if name == "weight" else self.neutral_bias_gain)
        if own.dim() == static.dim():
            return mean
        if own.is_meta:
            own = torch.empty_like(own, device=static.device)
            self._draw(name, own)
        return mean + (own - own.mean(0)).to(mean.device)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        given = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        if given.keys() <= STATIC_AXES.keys():
            for name, value in given.items():
                own = getattr(self, name)
                fits = isinstance(value, Tensor) and own is not None and value.shape == own.shape[-STATIC_AXES[name] :]
                if fits:
                    ours = self._from_static(name, value)
                    assigned = local_metadata.get("assign_to_params_buffers", False)
                    state_dict[prefix + name] = ours.to(value.dtype) if assigned else ours
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def each(tensor: Tensor) -> Tensor:
            # `Module.to` refuses channels_last for five axes; joined, K kernels are those of one wide convolution.
            if tensor.dim() == 5 and type(tensor.data) is Tensor:
                return fn(tensor.flatten(0, 1)).reshape(tensor.shape)
            return fn(tensor)

        super()._apply(each, recurse)  # type: ignore[no-untyped-call]
        return self

    def _reset_static(self) -> None:
        """Initialise weight and bias, or each of several, as `torch.nn.Conv2d` does."""
        self._draw("weight", self.weight)
        if self.bias is not None:
            self._draw("bias", self.bias)

    def _draw(self, name: str, into: Tensor) -> None:
        if name == "weight":
            kernels: Any = into if into.dim() == 5 else (into,)
            for kernel in kernels:
                nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        else:
            bound = 1 / math.sqrt(math.prod(self.weight.shape[-3:]))
            nn.init.uniform_(into, -bound, bound)

    def _check_input(self, x: Tensor) -> None:
        check_images(x, self.in_channels, type(self).__name__)

    def _padded(self, x: Tensor) -> Tensor:
        """``x`` with every padding applied that the algorithms do not do themselves."""
        if not (is_exporting() or torch.compiler.is_compiling()):
            x = _usual_strides(x)
        sides = self._sides()
        if self._is_simple(sides) or not any(sides):
            return x
        return F.pad(x, sides, "constant" if self.padding_mode == "zeros" else self.padding_mode)

    @property
    def geometry(self) -> Geometry:
        """Stride, padding, dilation and groups of the convolution that runs on the padded input."""
        sides = self._sides()
        padding = (sides[2], sides[0]) if self._is_simple(sides) else (0, 0)
        return Geometry(self.kernel_size, self.stride, padding, self.dilation, self.groups)

    def _sides(self) -> tuple[int, int, int, int]:
        """Pixels of padding left, right, above and below, from the attributes as they are now."""
        if self.padding == "valid":
            return (0, 0, 0, 0)
        if self.padding == "same":
            reach_h, reach_w = (d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
            return (reach_w // 2, reach_w - reach_w // 2, reach_h // 2, reach_h - reach_h // 2)
        assert not isinstance(self.padding, str)
        height, width = self.padding
        return (width, width, height, height)

    def _is_simple(self, sides: tuple[int, int, int, int]) -> bool:
        """Whether the padding is symmetric zeros, which every algorithm does itself."""
        return self.padding_mode == "zeros" and sides[0] == sides[1] and sides[2] == sides[3]

    def _checked_padding(self, padding: int | tuple[int, int] | str) -> tuple[int, int] | str:
        if not isinstance(padding, str):
            return pair("padding", padding, minimum=0)
        check_choice("padding", padding, ("same", "valid"))
        if padding == "same" and self.stride != (1, 1):
            raise ValueError(f"padding='same' needs stride 1; got stride={self.stride}. Give the padding as numbers.")
        return padding

    def extra_repr(self) -> str:
        """The arguments that differ from `torch.nn.Conv2d`'s defaults."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding!r}"] if self.padding != (0, 0) else []
        parts += [f"dilation={self.dilation}"] if self.dilation != (1, 1) else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"padding_mode={self.padding_mode!r}"] if self.padding_mode != "zeros" else []
        return ", ".join(parts)


def _usual_strides(x: Tensor) -> Tensor:
    """``x``, copied where it is a single channels_last image whose batch axis has another stride than usual.

    The stride of an axis of length one has no meaning, but with such strides the weight's gradient of a grouped
    `torch.nn.functional.conv2d` is wrong on the CPU (torch 2.14).
    """
    if x.shape[0] == 1 and x.stride(0) != x.numel() and x.is_contiguous(memory_format=torch.channels_last):
        return x.clone(memory_format=torch.channels_last)
    return x


def conv_arguments(conv: "nn.Conv2d | DynamicConv2d") -> dict[str, Any]:
    """What `torch.nn.Conv2d` is to be called with to make one like this, but for device and dtype."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {**{name: getattr(conv, name) for name in names}, "bias": conv.bias is not None}


def is_channels_last(weight: Tensor) -> bool:
    """Whether a kernel, or each of several, lies in memory with its channels last, which 1x1 kernels tell too."""
    return weight.shape[-3] > 1 and weight.stride()[-3] == 1 and weight.stride()[-1] == weight.shape[-3]


def adopt_static(layer: nn.Module, static: nn.Conv2d | nn.Linear) -> None:
    """Take over weight, bias, what is trainable, and train mode from ``static`` into a layer of the same sizes."""
    with torch.no_grad():
        for name in ("weight", "bias"):
            mine, theirs = getattr(layer, name), getattr(static, name)
            if theirs is not None:
                mine.copy_(layer._from_static(name, theirs) if isinstance(layer, DynamicConv2d) else theirs)
                mine.requires_grad_(theirs.requires_grad)
    layer.train(static.training)
