"""The contract of every dynamic convolution."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dynaconv.families.contract.checks import check_real
from dynaconv.families.contract.config import LayerConfig
from dynaconv.families.contract.convolution import DynamicConvolution, PaddingMode, conv_arguments
from dynaconv.families.contract.deployed import DeployedLayer
from dynaconv.families.contract.operator import STATIC_AXES, DynamicOperator
from dynaconv.families.contract.options import describe
from dynaconv.families.contract.static import carry_attachments, check_static


class DynamicLayer(DynamicOperator):
    """A layer whose kernel depends on its input, in the place of a convolution or a linear layer."""

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
    def algorithm(self) -> Any:
        """``auto`` or one of `algorithms`; may be set at any time, which replaces `config`."""
        return self.config.algorithm

    @algorithm.setter
    def algorithm(self, value: Any) -> None:
        self.config = dataclasses.replace(self.config, algorithm=value)

    def deployed(self) -> DeployedLayer:
        """What the layer computes in eval mode, as it is shipped; the layer itself stays.

        Raises:
            NotImplementedError: its family has no deployed form.
        """
        raise NotImplementedError(f"{type(self).__name__} has no deployed form.")

    def _reset_branch(self) -> None:
        """Draw the branch anew and forget the contexts seen."""
        for module in (self.get_submodule("branch"), self.context_norm):
            if module is not None:
                module.reset_parameters()  # type: ignore[operator]


class DynamicConv2d(DynamicConvolution, DynamicLayer):
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

    branch: Any
    """From the context to what coefficients are made of; zeros from it are neutral coefficients."""
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
        self._set_arguments(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        kernels, biases = self._stacks(config)
        shape = (*kernels, out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(check_real(torch.empty(shape, device=device, dtype=dtype)))
        if bias:
            self.bias = nn.Parameter(torch.empty((*biases, out_channels), device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self._build(config, self.weight.device, self.weight.dtype)
        self.reset_parameters()

    def _stacks(self, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What comes first in the shapes of ``weight`` and ``bias``: the number of kernels that a family mixes."""
        return (), ()

    @abstractmethod
    def _build(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Make what the family has beside the static kernel: branch, factors, the norm of the context."""

    def reset_parameters(self) -> None:
        """Initialise weight and bias, or each of several, as `torch.nn.Conv2d` does, and the branch as fresh."""
        self._reset_static()
        self._reset_branch()

    def _neutralise(self) -> None:
        """Make the coefficients neutral whatever the input, in a way that training can leave."""
        self.branch.neutralise()

    @property
    def is_neutral(self) -> bool:
        """Whether the layer computes what a static convolution does, whatever its input."""
        return bool(self.branch.is_neutral)

    def static_conv(self) -> nn.Conv2d:
        """The convolution that this layer computes while its coefficients are neutral.

        Its weight and bias are new parameters with what is trainable, the dtype, device, memory format and mode here.

        Raises:
            RuntimeError: the coefficients are not neutral, so no static convolution does the same.
        """
        if not self.is_neutral:
            raise RuntimeError(f"this {type(self).__name__} is not neutral: its kernel depends on the input.")
        conv = nn.Conv2d(
            **conv_arguments(self), bias=self.bias is not None, device=self.weight.device, dtype=self.weight.dtype
        )
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
        layer = cls(
            **conv_arguments(conv),
            bias=conv.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            **hyperparameters,
        )
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
