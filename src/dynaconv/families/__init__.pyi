"""Written by tools/write_stubs.py."""

from collections.abc import Sequence
from typing import Literal

import torch

from dynaconv.families.condconv.layer import CondConv1d as _CondConv1d
from dynaconv.families.condconv.layer import CondConv2d as _CondConv2d
from dynaconv.families.condconv.layer import CondConv3d as _CondConv3d
from dynaconv.families.condconv.layer import CondConvTranspose1d as _CondConvTranspose1d
from dynaconv.families.condconv.layer import CondConvTranspose2d as _CondConvTranspose2d
from dynaconv.families.condconv.layer import CondConvTranspose3d as _CondConvTranspose3d
from dynaconv.families.contract.base import DynamicConv as DynamicConv
from dynaconv.families.contract.base import DynamicConv1d as DynamicConv1d
from dynaconv.families.contract.base import DynamicConv2d as DynamicConv2d
from dynaconv.families.contract.base import DynamicConv3d as DynamicConv3d
from dynaconv.families.contract.base import DynamicConvTranspose1d as DynamicConvTranspose1d
from dynaconv.families.contract.base import DynamicConvTranspose2d as DynamicConvTranspose2d
from dynaconv.families.contract.base import DynamicConvTranspose3d as DynamicConvTranspose3d
from dynaconv.families.contract.deployed import DeployedLayer as DeployedLayer
from dynaconv.families.contract.layer import DynamicLayer as DynamicLayer
from dynaconv.families.contract.mixture import KernelMixture as KernelMixture
from dynaconv.families.contract.mixture import KernelMixture2d as KernelMixture2d
from dynaconv.families.contract.mixture import MixtureCoefficients as MixtureCoefficients
from dynaconv.families.contract.parameters import parameter_groups as parameter_groups
from dynaconv.families.contract.shared import SharedContext as SharedContext
from dynaconv.families.contract.temperature import set_temperature as set_temperature
from dynaconv.families.dcd.config import DCDConfig as DCDConfig
from dynaconv.families.dcd.core import DCDCoefficients as DCDCoefficients
from dynaconv.families.dcd.layer import DCDConv1d as _DCDConv1d
from dynaconv.families.dcd.layer import DCDConv2d as _DCDConv2d
from dynaconv.families.dcd.layer import DCDConv3d as _DCDConv3d
from dynaconv.families.dcd.layer import DCDConvTranspose1d as _DCDConvTranspose1d
from dynaconv.families.dcd.layer import DCDConvTranspose2d as _DCDConvTranspose2d
from dynaconv.families.dcd.layer import DCDConvTranspose3d as _DCDConvTranspose3d
from dynaconv.families.dcd.layer import DCDLinear as _DCDLinear
from dynaconv.families.dyconv.layer import DYConv1d as _DYConv1d
from dynaconv.families.dyconv.layer import DYConv2d as _DYConv2d
from dynaconv.families.dyconv.layer import DYConv3d as _DYConv3d
from dynaconv.families.dyconv.layer import DYConvTranspose1d as _DYConvTranspose1d
from dynaconv.families.dyconv.layer import DYConvTranspose2d as _DYConvTranspose2d
from dynaconv.families.dyconv.layer import DYConvTranspose3d as _DYConvTranspose3d
from dynaconv.families.family import Coefficient as Coefficient
from dynaconv.families.family import Family as Family
from dynaconv.families.family import families as families
from dynaconv.families.family import family_of as family_of
from dynaconv.families.family import get_family as get_family
from dynaconv.families.family import register_family as register_family
from dynaconv.families.fdconv import FDConvCoefficients as FDConvCoefficients
from dynaconv.families.fdconv.layer import FDConv2d as _FDConv2d
from dynaconv.families.kernel_warehouse.attention import KernelWarehouseCoefficients as KernelWarehouseCoefficients
from dynaconv.families.kernel_warehouse.layer import KernelWarehouseConv1d as _KernelWarehouseConv1d
from dynaconv.families.kernel_warehouse.layer import KernelWarehouseConv2d as _KernelWarehouseConv2d
from dynaconv.families.kernel_warehouse.layer import KernelWarehouseConv3d as _KernelWarehouseConv3d
from dynaconv.families.kernel_warehouse.layer import KernelWarehouseLinear as _KernelWarehouseLinear
from dynaconv.families.kernel_warehouse.sharing import share_cells as share_cells
from dynaconv.families.kernel_warehouse.warehouse import Warehouse as Warehouse
from dynaconv.families.odconv import ODConvCoefficients as ODConvCoefficients
from dynaconv.families.odconv.layer import ODConv1d as _ODConv1d
from dynaconv.families.odconv.layer import ODConv2d as _ODConv2d
from dynaconv.families.odconv.layer import ODConv3d as _ODConv3d
from dynaconv.families.se.layer import SECoefficients as SECoefficients
from dynaconv.families.se.layer import SEConv1d as _SEConv1d
from dynaconv.families.se.layer import SEConv2d as _SEConv2d
from dynaconv.families.se.layer import SEConv3d as _SEConv3d

class _CondConv1dOptions:
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
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        context_norm: str | None = None,
        algorithm: str = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        residual: bool = False,
        context_axis: int | None = None,
        num_experts: int = 8,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: Norm of the branch's input, without scale and shift: ``layer`` normalises over the features,
                ``batch`` each feature over the batch, ``running`` each feature by the statistics of earlier batches;
                None: no norm. In eval mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds
                them into the branch.
            algorithm: ``kernel`` forms W(x) and applies it by matrix products, ``mixed`` mixes the outputs of all
                kernels, ``grouped`` forms W(x) and convolves with the batch folded into groups, ``auto`` uses the cost
                model.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            residual: Add the kernels to a static one, W(x) = W0 + sum_k a_k(x) dW_k, and the biases likewise;
                ``weight`` and ``bias`` then hold 1 + K of them, W0 first.
            context_axis: Axis along which kernels differ: -1, the last one, such as time, or -2, such as frequency. The
                input is averaged over the other axes, and the outputs of the K kernels are mixed at each position.
                None: no axis.
            num_experts: K, the number of kernels.
        """

class _CondConvTranspose1dOptions:
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
        *,
        context_norm: str | None = None,
        algorithm: str = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        residual: bool = False,
        context_axis: int | None = None,
        num_experts: int = 8,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: Norm of the branch's input, without scale and shift: ``layer`` normalises over the features,
                ``batch`` each feature over the batch, ``running`` each feature by the statistics of earlier batches;
                None: no norm. In eval mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds
                them into the branch.
            algorithm: ``kernel`` forms W(x) and applies it by matrix products, ``mixed`` mixes the outputs of all
                kernels, ``grouped`` forms W(x) and convolves with the batch folded into groups, ``auto`` uses the cost
                model.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            residual: Add the kernels to a static one, W(x) = W0 + sum_k a_k(x) dW_k, and the biases likewise;
                ``weight`` and ``bias`` then hold 1 + K of them, W0 first.
            context_axis: Axis along which kernels differ: -1, the last one, such as time, or -2, such as frequency. The
                input is averaged over the other axes, and the outputs of the K kernels are mixed at each position.
                None: no axis.
            num_experts: K, the number of kernels.
        """

class _DCDConv1dOptions:
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
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        context_norm: Literal["auto", "layer", "batch", "running"] | None = "auto",
        algorithm: Literal["auto", "kernel", "factored"] = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        reduction: int = 16,
        min_hidden_channels: int = 16,
        variant: Literal["full", "scale", "residual", "input"] = "full",
        fusion: Literal["auto", "channel", "joint", "depthwise"] = "auto",
        latent_dim: int | None = None,
        latent_taps: int | None = None,
        blocks: int | None = None,
        hidden_channels: int | None = None,
        context_size: Literal[1, 2] = 1,
        hidden_norm: Literal["auto", "unit"] | None = "auto",
        gain: float = 1.0,
        weight_norm: bool | None = None,
        activation: Literal["auto", "relu", "relu6", "silu", "gelu", "hardswish", "gate"] = "auto",
        scale_activation: Literal["auto", "linear", "hard_sigmoid", "sigmoid", "tanh"] = "auto",
        norm: Literal["batch"] | None = None,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: ``layer`` normalises each context over its features, ``batch`` each feature over the batch,
                ``running`` each feature by the statistics of earlier batches; none has scale and shift. With ``batch``
                in train mode, a kernel depends on the whole batch, and a single sample is normalised by running
                statistics. ``auto``: ``batch``, but None with ``norm="batch"``.
            algorithm: ``kernel`` forms W(x), ``factored`` applies its factors to feature maps, ``auto`` uses the cost
                model.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            reduction: r: the branch has max(C_in // r, min_hidden_channels) hidden units; see `keeps_length` for small
                contexts.
            min_hidden_channels: Minimum number of hidden units.
            variant: ``full`` is Lambda W0 + P Phi Q^T, ``scale`` Lambda W0 alone, ``residual`` W0 + P Phi Q^T,
                ``input`` W0 S, with a diagonal S(x) that scales the input channels; S has the activation and the bound
                of Lambda.
            fusion: Form of the residual. ``auto``: ``depthwise`` for a depthwise convolution, else ``channel``.
            latent_dim: L of one block, at most the larger of its input and output channels; None: floor(C /
                2^floor(log2 sqrt C)).
            latent_taps: L_k, 1 to k^2, of the joint and depthwise forms; None: floor(k^2 / 2).
            blocks: B, the number of diagonal blocks of the residual, a multiple of groups; None: groups.
            hidden_channels: Number of hidden units, in place of `reduction` and `min_hidden_channels`.
            context_size: The input is averaged over a grid of this many cells along each axis.
            hidden_norm: ``unit`` divides the branch's hidden vector by its length. ``auto``: ``unit``, but None with
                ``norm="batch"``.
            gain: Factor on the logits of Lambda and on Phi.
            weight_norm: Divide each row w of a head by sqrt(1 + |w|^2 / b^2), which limits its length to b, and the
                residual by the lengths of P's, Q's and R's columns; b is 1 for Lambda and max(L, L_k)^(-1/2) for Phi.
                Coefficients are then bounded, and the effective learning rate falls as weights grow, as for weights
                before a batch norm. None: True, but False with ``norm="batch"``, which does not allow True.
            activation: Activation of the branch. ``auto``: ``relu``, or ``gate``, h * hsig(F2 h), with
                ``norm="batch"``.
            scale_activation: Function from a logit t to Lambda, 1 at t = 0: ``linear`` 1 + t, ``hard_sigmoid`` relu6(t
                + 3) / 3 in [0, 2], ``sigmoid`` 2 sigmoid(t) in (0, 2), ``tanh`` 1 + tanh(t) in (0, 2). ``auto``:
                ``sigmoid``, or ``hard_sigmoid`` with ``norm="batch"``.
            norm: ``batch`` adds batch norms and a skip connection around Phi, as in the published code (channel form
                only).
        """

class _DCDConvTranspose1dOptions:
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
        *,
        context_norm: Literal["auto", "layer", "batch", "running"] | None = "auto",
        algorithm: Literal["auto", "kernel", "factored"] = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        reduction: int = 16,
        min_hidden_channels: int = 16,
        variant: Literal["full", "scale", "residual", "input"] = "full",
        fusion: Literal["auto", "channel", "joint", "depthwise"] = "auto",
        latent_dim: int | None = None,
        latent_taps: int | None = None,
        blocks: int | None = None,
        hidden_channels: int | None = None,
        context_size: Literal[1, 2] = 1,
        hidden_norm: Literal["auto", "unit"] | None = "auto",
        gain: float = 1.0,
        weight_norm: bool | None = None,
        activation: Literal["auto", "relu", "relu6", "silu", "gelu", "hardswish", "gate"] = "auto",
        scale_activation: Literal["auto", "linear", "hard_sigmoid", "sigmoid", "tanh"] = "auto",
        norm: Literal["batch"] | None = None,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: ``layer`` normalises each context over its features, ``batch`` each feature over the batch,
                ``running`` each feature by the statistics of earlier batches; none has scale and shift. With ``batch``
                in train mode, a kernel depends on the whole batch, and a single sample is normalised by running
                statistics. ``auto``: ``batch``, but None with ``norm="batch"``.
            algorithm: ``kernel`` forms W(x), ``factored`` applies its factors to feature maps, ``auto`` uses the cost
                model.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            reduction: r: the branch has max(C_in // r, min_hidden_channels) hidden units; see `keeps_length` for small
                contexts.
            min_hidden_channels: Minimum number of hidden units.
            variant: ``full`` is Lambda W0 + P Phi Q^T, ``scale`` Lambda W0 alone, ``residual`` W0 + P Phi Q^T,
                ``input`` W0 S, with a diagonal S(x) that scales the input channels; S has the activation and the bound
                of Lambda.
            fusion: Form of the residual. ``auto``: ``depthwise`` for a depthwise convolution, else ``channel``.
            latent_dim: L of one block, at most the larger of its input and output channels; None: floor(C /
                2^floor(log2 sqrt C)).
            latent_taps: L_k, 1 to k^2, of the joint and depthwise forms; None: floor(k^2 / 2).
            blocks: B, the number of diagonal blocks of the residual, a multiple of groups; None: groups.
            hidden_channels: Number of hidden units, in place of `reduction` and `min_hidden_channels`.
            context_size: The input is averaged over a grid of this many cells along each axis.
            hidden_norm: ``unit`` divides the branch's hidden vector by its length. ``auto``: ``unit``, but None with
                ``norm="batch"``.
            gain: Factor on the logits of Lambda and on Phi.
            weight_norm: Divide each row w of a head by sqrt(1 + |w|^2 / b^2), which limits its length to b, and the
                residual by the lengths of P's, Q's and R's columns; b is 1 for Lambda and max(L, L_k)^(-1/2) for Phi.
                Coefficients are then bounded, and the effective learning rate falls as weights grow, as for weights
                before a batch norm. None: True, but False with ``norm="batch"``, which does not allow True.
            activation: Activation of the branch. ``auto``: ``relu``, or ``gate``, h * hsig(F2 h), with
                ``norm="batch"``.
            scale_activation: Function from a logit t to Lambda, 1 at t = 0: ``linear`` 1 + t, ``hard_sigmoid`` relu6(t
                + 3) / 3 in [0, 2], ``sigmoid`` 2 sigmoid(t) in (0, 2), ``tanh`` 1 + tanh(t) in (0, 2). ``auto``:
                ``sigmoid``, or ``hard_sigmoid`` with ``norm="batch"``.
            norm: ``batch`` adds batch norms and a skip connection around Phi, as in the published code (channel form
                only).
        """

class _DCDLinearOptions:
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        context_norm: Literal["auto", "layer", "batch", "running"] | None = "auto",
        algorithm: Literal["auto", "kernel", "factored"] = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        reduction: int = 16,
        min_hidden_channels: int = 16,
        variant: Literal["full", "scale", "residual", "input"] = "full",
        latent_dim: int | None = None,
        blocks: int | None = None,
        hidden_channels: int | None = None,
        hidden_norm: Literal["auto", "unit"] | None = "auto",
        gain: float = 1.0,
        weight_norm: bool | None = None,
        activation: Literal["auto", "relu", "relu6", "silu", "gelu", "hardswish", "gate"] = "auto",
        scale_activation: Literal["auto", "linear", "hard_sigmoid", "sigmoid", "tanh"] = "auto",
        norm: Literal["batch"] | None = None,
        average_rows: bool = False,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: ``layer`` normalises each context over its features, ``batch`` each feature over the batch,
                ``running`` each feature by the statistics of earlier batches; none has scale and shift. With ``batch``
                in train mode, a kernel depends on the whole batch, and a single sample is normalised by running
                statistics. ``auto``: ``batch``, but None with ``norm="batch"``.
            algorithm: ``kernel`` forms W(x), ``factored`` applies its factors to feature maps, ``auto`` uses the cost
                model.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            reduction: r: the branch has max(C_in // r, min_hidden_channels) hidden units; see `keeps_length` for small
                contexts.
            min_hidden_channels: Minimum number of hidden units.
            variant: ``full`` is Lambda W0 + P Phi Q^T, ``scale`` Lambda W0 alone, ``residual`` W0 + P Phi Q^T,
                ``input`` W0 S, with a diagonal S(x) that scales the input channels; S has the activation and the bound
                of Lambda.
            latent_dim: L of one block, at most the larger of its input and output channels; None: floor(C /
                2^floor(log2 sqrt C)).
            blocks: B, the number of diagonal blocks of the residual, a multiple of groups; None: groups.
            hidden_channels: Number of hidden units, in place of `reduction` and `min_hidden_channels`.
            hidden_norm: ``unit`` divides the branch's hidden vector by its length. ``auto``: ``unit``, but None with
                ``norm="batch"``.
            gain: Factor on the logits of Lambda and on Phi.
            weight_norm: Divide each row w of a head by sqrt(1 + |w|^2 / b^2), which limits its length to b, and the
                residual by the lengths of P's, Q's and R's columns; b is 1 for Lambda and max(L, L_k)^(-1/2) for Phi.
                Coefficients are then bounded, and the effective learning rate falls as weights grow, as for weights
                before a batch norm. None: True, but False with ``norm="batch"``, which does not allow True.
            activation: Activation of the branch. ``auto``: ``relu``, or ``gate``, h * hsig(F2 h), with
                ``norm="batch"``.
            scale_activation: Function from a logit t to Lambda, 1 at t = 0: ``linear`` 1 + t, ``hard_sigmoid`` relu6(t
                + 3) / 3 in [0, 2], ``sigmoid`` 2 sigmoid(t) in (0, 2), ``tanh`` 1 + tanh(t) in (0, 2). ``auto``:
                ``sigmoid``, or ``hard_sigmoid`` with ``norm="batch"``.
            norm: ``batch`` adds batch norms and a skip connection around Phi, as in the published code (channel form
                only).
            average_rows: Whether the context is the mean over the rows of a sample of ``(B, ..., in_features)``, all
                with one matrix, as in a 1x1 convolution; False: each row is its own context. `convert` sets it.
        """

class _DYConv1dOptions:
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
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        context_norm: str | None = None,
        algorithm: str = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        reduction: int = 4,
        min_hidden_channels: int = 4,
        num_kernels: int = 4,
        temperature: float = 1.0,
        residual: bool = False,
        context_axis: int | None = None,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: Norm of the branch's input, without scale and shift: ``layer`` normalises over the features,
                ``batch`` each feature over the batch, ``running`` each feature by the statistics of earlier batches;
                None: no norm. In eval mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds
                them into the branch.
            algorithm: ``kernel`` forms W(x) and applies it by matrix products, ``mixed`` mixes the outputs of all
                kernels, ``grouped`` forms W(x) and convolves with the batch folded into groups, ``auto`` uses the cost
                model.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            reduction: The branch has max(channels // reduction, min_hidden_channels) hidden units.
            min_hidden_channels: Minimum number of hidden units.
            num_kernels: K, the number of kernels.
            temperature: Initial temperature, > 0, which divides the logits of the attention; `set_temperature` changes
                it later. It is saved in the state dict and never averaged with the weights.
            residual: Add the kernels to a static one, W(x) = W0 + sum_k a_k(x) dW_k, and the biases likewise;
                ``weight`` and ``bias`` then hold 1 + K of them, W0 first.
            context_axis: Axis along which kernels differ: -1, the last one, such as time, or -2, such as frequency. The
                input is averaged over the other axes, and the outputs of the K kernels are mixed at each position.
                None: no axis.
        """

class _DYConvTranspose1dOptions:
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
        *,
        context_norm: str | None = None,
        algorithm: str = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        reduction: int = 4,
        min_hidden_channels: int = 4,
        num_kernels: int = 4,
        temperature: float = 1.0,
        residual: bool = False,
        context_axis: int | None = None,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: Norm of the branch's input, without scale and shift: ``layer`` normalises over the features,
                ``batch`` each feature over the batch, ``running`` each feature by the statistics of earlier batches;
                None: no norm. In eval mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds
                them into the branch.
            algorithm: ``kernel`` forms W(x) and applies it by matrix products, ``mixed`` mixes the outputs of all
                kernels, ``grouped`` forms W(x) and convolves with the batch folded into groups, ``auto`` uses the cost
                model.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            reduction: The branch has max(channels // reduction, min_hidden_channels) hidden units.
            min_hidden_channels: Minimum number of hidden units.
            num_kernels: K, the number of kernels.
            temperature: Initial temperature, > 0, which divides the logits of the attention; `set_temperature` changes
                it later. It is saved in the state dict and never averaged with the weights.
            residual: Add the kernels to a static one, W(x) = W0 + sum_k a_k(x) dW_k, and the biases likewise;
                ``weight`` and ``bias`` then hold 1 + K of them, W0 first.
            context_axis: Axis along which kernels differ: -1, the last one, such as time, or -2, such as frequency. The
                input is averaged over the other axes, and the outputs of the K kernels are mixed at each position.
                None: no axis.
        """

class _FDConv2dOptions:
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
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        context_norm: str | None = None,
        algorithm: str = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        reduction: int = 16,
        min_hidden_channels: int = 16,
        num_kernels: int = 64,
        spectra: int = 1,
        stored: str = "spectrum",
        gate: str = "sigmoid",
        gate_limit: float = 2.0,
        temperature: float = 1.0,
        kernel_temperature: float = 1.0,
        local_gate: str | None = "sigmoid",
        bands: tuple[int, ...] | None = None,
        band_groups: int = 1,
        band_kernel_size: int = 3,
        band_gate: str = "sigmoid",
        low_band: bool = False,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: Norm of the branch's input, without scale and shift: ``layer`` normalises over the features,
                ``batch`` each feature over the batch, ``running`` each feature by the statistics of earlier batches;
                None: no norm. In eval mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds
                them into the branch.
            algorithm: ``kernel`` forms W(x) and applies it by matrix products, ``grouped`` convolves with the batch
                folded into groups, ``auto`` uses the cost model.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            reduction: The branch has max(channels // reduction, min_hidden_channels) hidden units.
            min_hidden_channels: Minimum number of hidden units.
            num_kernels: K, the number of groups of frequencies of the kernel, each with a gain of its own. If it does
                not divide the number of stored frequencies, the largest divisor below it is used; the layer's
                ``num_kernels`` says which.
            spectra: Number of spectra, each with K gains, whose kernels are added.
            stored: Trained form of the static kernel: ``spectrum``, or ``kernel``, transformed in each forward pass.
            gate: Activation of the gates and gains: ``sigmoid``, or ``tanh`` for 1 + tanh(logit).
            gate_limit: Upper limit of a gate with ``sigmoid``, > 0; 2 makes neutral gates 1.
            temperature: Divisor, > 0, of the logits of the channel, filter and spatial gates.
            kernel_temperature: Divisor, > 0, of the logits of the K gains.
            local_gate: Activation of the gates of single kernel elements, as ``gate``; None: no such gates.
            bands: Divisors n > 1, ascending; each adds a low-pass filter that keeps frequencies below 1 / (2 n) cycles
                per pixel. The input's bands between them are modulated. () for none; None: 2, 4, 8 for a 3x3 kernel,
                else none.
            band_groups: Number of groups of channels, each with maps of its own; above 64, each channel is one.
            band_kernel_size: Side length, odd, of the convolutions that compute the maps.
            band_gate: Activation of the maps, as ``gate``, or ``softmax`` over the groups.
            low_band: Whether the lowest band has a map too.
        """

class _KernelWarehouseConv1dOptions:
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
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        context_norm: str | None = None,
        algorithm: str = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        reduction: int = 16,
        min_hidden_channels: int = 16,
        budget: float = 1,
        out_divisor: int | None = None,
        in_divisor: int | None = None,
        whole_taps: bool = False,
        basis_reduction: int = 1,
        branch_norm: str = "batch",
        warehouse: str | None = None,
        start: str = "exact",
        temperature: float = 0.0,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: Norm of the branch's input, without scale and shift: ``layer`` normalises over the features,
                ``batch`` each feature over the batch, ``running`` each feature by the statistics of earlier batches;
                None: no norm. In eval mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds
                them into the branch.
            algorithm: ``kernel`` applies W(x) by matrix products, ``grouped`` by one convolution with the batch folded
                into groups, ``auto`` uses the cost model.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            reduction: The branch has max(channels // reduction, min_hidden_channels) hidden units.
            min_hidden_channels: Minimum number of hidden units.
            budget: Cells per block of the kernels, b: 1/4, 1/2, 1, 2, 3 or 4. 1 keeps the number of kernel weights.
            out_divisor: Divisor of the cells' output channels; None: 1, and 2 for budgets below 1.
                ``cell_outplane_ratio`` is its inverse.
            in_divisor: Divisor of the cells' input channels; None: 1, and 2 for budgets below 1. ``cell_inplane_ratio``
                is its inverse.
            whole_taps: Whether a cell covers all taps of the kernel, in place of one.
            basis_reduction: With more than 1, the logits of other layers' cells are linear in max(cells //
                basis_reduction, 16) numbers of each block, which needs fewer parameters. ``nonlocal_basis_ratio`` is
                its inverse.
            branch_norm: Norm of the hidden units: ``batch``, or ``layer`` with a bias before it.
            warehouse: Name of the warehouse: layers of a network with the same name share their cells. None: the layer
                has cells of its own. For `convert` also a rule: ``stage``, the default, ``kind`` or ``layer``.
            start: Cells of a layer made from a static one: ``exact`` keeps its function, which needs a budget of at
                least 1; ``least_squares`` approximates its kernel; ``random`` draws the cells anew, to train from
                scratch.
            temperature: Initial temperature tau, 0 to 1: the share of each block that is its starting cell;
                `set_temperature` changes it later. It is saved in the state dict and never averaged with the weights.
        """

class _KernelWarehouseLinearOptions:
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        context_norm: str | None = None,
        context_features: int | None = None,
        shared_context: str | None = None,
        reduction: int = 16,
        min_hidden_channels: int = 16,
        budget: float = 1,
        out_divisor: int | None = None,
        in_divisor: int | None = None,
        basis_reduction: int = 1,
        branch_norm: str = "batch",
        warehouse: str | None = None,
        start: str = "exact",
        temperature: float = 0.0,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: Norm of the branch's input, without scale and shift: ``layer`` normalises over the features,
                ``batch`` each feature over the batch, ``running`` each feature by the statistics of earlier batches;
                None: no norm. In eval mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds
                them into the branch.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            reduction: The branch has max(channels // reduction, min_hidden_channels) hidden units.
            min_hidden_channels: Minimum number of hidden units.
            budget: Cells per block of the kernels, b: 1/4, 1/2, 1, 2, 3 or 4. 1 keeps the number of kernel weights.
            out_divisor: Divisor of the cells' output channels; None: 1, and 2 for budgets below 1.
                ``cell_outplane_ratio`` is its inverse.
            in_divisor: Divisor of the cells' input channels; None: 1, and 2 for budgets below 1. ``cell_inplane_ratio``
                is its inverse.
            basis_reduction: With more than 1, the logits of other layers' cells are linear in max(cells //
                basis_reduction, 16) numbers of each block, which needs fewer parameters. ``nonlocal_basis_ratio`` is
                its inverse.
            branch_norm: Norm of the hidden units: ``batch``, or ``layer`` with a bias before it.
            warehouse: Name of the warehouse: layers of a network with the same name share their cells. None: the layer
                has cells of its own. For `convert` also a rule: ``stage``, the default, ``kind`` or ``layer``.
            start: Cells of a layer made from a static one: ``exact`` keeps its function, which needs a budget of at
                least 1; ``least_squares`` approximates its kernel; ``random`` draws the cells anew, to train from
                scratch.
            temperature: Initial temperature tau, 0 to 1: the share of each block that is its starting cell;
                `set_temperature` changes it later. It is saved in the state dict and never averaged with the weights.
        """

class _ODConv1dOptions:
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
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        context_norm: str | None = None,
        algorithm: str = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        reduction: int = 16,
        min_hidden_channels: int = 16,
        num_kernels: int = 4,
        temperature: float = 1.0,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: Norm of the branch's input, without scale and shift: ``layer`` normalises over the features,
                ``batch`` each feature over the batch, ``running`` each feature by the statistics of earlier batches;
                None: no norm. In eval mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds
                them into the branch.
            algorithm: ``kernel`` forms W(x) and applies it by matrix products, ``mixed`` scales the input and output of
                one shared convolution with all K kernels, ``grouped`` forms W(x) and convolves with the batch folded
                into groups, ``auto`` uses the cost model.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            reduction: The branch has max(channels // reduction, min_hidden_channels) hidden units.
            min_hidden_channels: Minimum number of hidden units.
            num_kernels: K, the number of kernels; 1 needs the parameters of a static convolution plus the branch.
            temperature: Initial temperature, > 0, which divides the logits of the attention; `set_temperature` changes
                it later. It is saved in the state dict and never averaged with the weights.
        """

class _SEConv1dOptions:
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
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        context_norm: str | None = None,
        algorithm: str = "auto",
        context_features: int | None = None,
        shared_context: str | None = None,
        reduction: int = 16,
        min_hidden_channels: int = 8,
    ) -> None:
        """The arguments of torch's layer.

        Options:
            context_norm: Norm of the branch's input, without scale and shift: ``layer`` normalises over the features,
                ``batch`` each feature over the batch, ``running`` each feature by the statistics of earlier batches;
                None: no norm. In eval mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds
                them into the branch.
            algorithm: ``factored`` scales the output, ``kernel`` forms W(x) and convolves once more, ``auto`` uses the
                cost model, which always chooses ``factored``.
            context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
                one that several layers share; None: it reads the averaged input.
            shared_context: Name of the layer of the network whose averaged input is the context; layers with the same
                name share it. `convert` with context='block' sets it.
            reduction: The branch has max(channels // reduction, min_hidden_channels) hidden units.
            min_hidden_channels: Minimum number of hidden units.
        """

class CondConv1d(_CondConv1dOptions, _CondConv1d): ...
class CondConv2d(_CondConv1dOptions, _CondConv2d): ...
class CondConv3d(_CondConv1dOptions, _CondConv3d): ...
class CondConvTranspose1d(_CondConvTranspose1dOptions, _CondConvTranspose1d): ...
class CondConvTranspose2d(_CondConvTranspose1dOptions, _CondConvTranspose2d): ...
class CondConvTranspose3d(_CondConvTranspose1dOptions, _CondConvTranspose3d): ...
class DCDConv1d(_DCDConv1dOptions, _DCDConv1d): ...
class DCDConv2d(_DCDConv1dOptions, _DCDConv2d): ...
class DCDConv3d(_DCDConv1dOptions, _DCDConv3d): ...
class DCDConvTranspose1d(_DCDConvTranspose1dOptions, _DCDConvTranspose1d): ...
class DCDConvTranspose2d(_DCDConvTranspose1dOptions, _DCDConvTranspose2d): ...
class DCDConvTranspose3d(_DCDConvTranspose1dOptions, _DCDConvTranspose3d): ...
class DCDLinear(_DCDLinearOptions, _DCDLinear): ...
class DYConv1d(_DYConv1dOptions, _DYConv1d): ...
class DYConv2d(_DYConv1dOptions, _DYConv2d): ...
class DYConv3d(_DYConv1dOptions, _DYConv3d): ...
class DYConvTranspose1d(_DYConvTranspose1dOptions, _DYConvTranspose1d): ...
class DYConvTranspose2d(_DYConvTranspose1dOptions, _DYConvTranspose2d): ...
class DYConvTranspose3d(_DYConvTranspose1dOptions, _DYConvTranspose3d): ...
class FDConv2d(_FDConv2dOptions, _FDConv2d): ...
class KernelWarehouseConv1d(_KernelWarehouseConv1dOptions, _KernelWarehouseConv1d): ...
class KernelWarehouseConv2d(_KernelWarehouseConv1dOptions, _KernelWarehouseConv2d): ...
class KernelWarehouseConv3d(_KernelWarehouseConv1dOptions, _KernelWarehouseConv3d): ...
class KernelWarehouseLinear(_KernelWarehouseLinearOptions, _KernelWarehouseLinear): ...
class ODConv1d(_ODConv1dOptions, _ODConv1d): ...
class ODConv2d(_ODConv1dOptions, _ODConv2d): ...
class ODConv3d(_ODConv1dOptions, _ODConv3d): ...
class SEConv1d(_SEConv1dOptions, _SEConv1d): ...
class SEConv2d(_SEConv1dOptions, _SEConv2d): ...
class SEConv3d(_SEConv1dOptions, _SEConv3d): ...
