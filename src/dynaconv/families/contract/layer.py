"""The contract of every trainable dynamic layer, convolution or linear map."""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from dynaconv.families.contract.config import LayerConfig
from dynaconv.families.contract.deployed import DeployedLayer
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.families.contract.options import describe
from dynaconv.families.contract.static import copy_hooks_and_attributes

Static = TypeVar("Static", bound=nn.Module)


class DynamicLayer(DynamicOperator):
    """A trainable layer whose kernel depends on its input; it replaces a convolution or a linear layer."""

    branch: Any
    """Maps the context to the logits of the coefficients; zero logits give neutral coefficients."""
    context_norm: nn.Module | None
    """Norm of the context before the branch; None for no norm."""
    config_class: ClassVar[type[LayerConfig]] = LayerConfig
    """Class of the config, whose fields are the options of the constructor."""
    _without: ClassVar[tuple[str, ...]] = ()
    """Fields of the config that the layer does not use."""
    _config: Any

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        describe(cls, cls.config_class, cls._without)
        names = {field.name for field in dataclasses.fields(cls.config_class)}.difference(cls._without)
        cls._accepts_context = "context_features" in names

    @classmethod
    def _make_config(cls, options: Mapping[str, Any]) -> Any:
        known = {field.name for field in dataclasses.fields(cls.config_class)}.difference(cls._without)
        for name in options:
            if name not in known:
                raise TypeError(f"{cls.__name__} got an unexpected keyword argument {name!r}")
        return cls.config_class(**options)

    @property
    def config(self) -> Any:
        """Options of the layer, its family's `LayerConfig`, from which an equal layer can be built."""
        return self._config

    @config.setter
    def config(self, value: Any) -> None:
        self._config = value

    @property
    def _own_features(self) -> int:
        """Length of the context that the layer computes itself."""
        return self.input_features

    @property
    def _branch_features(self) -> int:
        """Length of the branch's input."""
        return self._own_features if self.context_features is None else self.context_features

    @property
    def algorithm(self) -> Any:
        """``auto`` or one of `algorithms`. It can be set at any time; setting it replaces `config`."""
        return self.config.algorithm

    @algorithm.setter
    def algorithm(self, value: Any) -> None:
        self.config = dataclasses.replace(self.config, algorithm=value)

    @property
    def conversion_note(self) -> str:
        """What a conversion plan adds to the name of this layer, such as options adapted to it; else empty."""
        return ""

    def deployed(self) -> DeployedLayer:
        """Return the deployed form, which computes the layer's function in eval mode. The layer is unchanged.

        Raises:
            NotImplementedError: the family has no deployed form.
        """
        raise NotImplementedError(f"{type(self).__name__} has no deployed form.")

    def deployed_among(self, memo: dict[int, Any]) -> DeployedLayer:
        """Return the deployed form, which shares tensors with forms of other layers if the layers share them.

        Args:
            memo: Memo of `copy.deepcopy`, the same dict for all layers of a network.
        """
        return self.deployed()

    @property
    def neutral_kernel(self) -> Tensor:
        """W0: the kernel that neutral coefficients give, with the shape of one sample's `kernel`."""
        return self._static_value("weight")

    @property
    def is_neutral(self) -> bool:
        """Whether the coefficients are neutral for every input, so that the layer is a static one."""
        return bool(self.branch.is_neutral)

    def static_layer(self) -> Any:
        """Return the static layer that this layer computes while its coefficients are neutral.

        It has new parameters, and the layer's `requires_grad`, dtype, device, memory format and mode.

        Raises:
            RuntimeError: the coefficients are not neutral, so no static layer is equivalent.
        """
        if not self.is_neutral:
            raise RuntimeError(f"this {type(self).__name__} is not neutral: its kernel depends on the input.")
        return self.static_with(self.neutral_kernel, None if self.bias is None else self._static_value("bias"))

    def _static_value(self, name: str) -> Tensor:
        """Return the static ``weight`` or ``bias`` that neutral coefficients give."""
        value: Tensor = getattr(self, name)
        return value

    def static_kernel_refusal(self) -> str | None:
        """Return why the layer cannot have the kernel of a static one; None if it can."""
        return None

    def freezing_refusal(self) -> str | None:
        """Return why no static layer can have the mean of this layer's kernels; None if one can."""
        return None

    @abstractmethod
    def _neutralise(self) -> None:
        """Make the coefficients neutral for every input, such that training can change them."""

    def _set_static(self, name: str, static: Tensor) -> None:
        """Set the parameter ``name`` to that of a static layer."""
        getattr(self, name).copy_(static)

    @classmethod
    @abstractmethod
    def static_class(cls) -> type[Any]:
        """Return the class of torch that the layer replaces."""

    @abstractmethod
    def static_with(self, weight: Tensor, bias: Tensor | None) -> Any:
        """Return the static counterpart of the layer, with copies of ``weight`` and ``bias``.

        It has the layer's arguments, `requires_grad`, dtype, device, memory format, mode and hooks.

        Args:
            weight: Kernel, with the shape of one sample's `kernel`.
            bias: ``(C_out,)`` or None.
        """

    def _reset_branch(self) -> None:
        """Initialise the branch and reset the statistics of the context norm."""
        self.branch.reset_parameters()
        if self.context_norm is not None:
            self.context_norm.reset_parameters()  # type: ignore[operator]


def fill_static(layer: DynamicLayer, static: Static, weight: Tensor, bias: Tensor | None) -> Static:
    """Copy weight and bias to ``static``, and `requires_grad`, mode, hooks and attributes of ``layer``."""
    values = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    with torch.no_grad():
        for name, value in values.items():
            parameter, own = static.get_parameter(name), layer.stored_kernel if name == "weight" else layer.bias
            parameter.copy_(value)
            parameter.requires_grad_((layer.stored_kernel if own is None else own).requires_grad)
    copy_hooks_and_attributes(layer, static)
    return static.train(layer.training)


def adopt_static(layer: DynamicLayer, static: Any) -> None:
    """Copy weight, bias, `requires_grad` and train mode of ``static`` to a layer of the same sizes."""
    with torch.no_grad():
        for name, mine in (("weight", layer.stored_kernel), ("bias", layer.bias)):
            theirs = getattr(static, name)
            if theirs is not None:
                layer._set_static(name, theirs)
                mine.requires_grad_(theirs.requires_grad)  # type: ignore[union-attr]
    layer.train(static.training)
