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

class CondConv1d(_CondConv1d):
    """`CondConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class CondConv2d(_CondConv2d):
    """A convolution with W(x) = sum_k sigmoid(r_k(x)) W_k and a bias mixed in the same way.

    The routing r(x) is a linear map with bias of the averaged input; each layer has its own. The weights are
    independent of one another and need not sum to one; at zero logits each is 1/2.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Reference: Yang et al., NeurIPS 2019, arXiv:1904.04971v3."""

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
    ) -> None: ...

class CondConv3d(_CondConv3d):
    """`CondConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class CondConvTranspose1d(_CondConvTranspose1d):
    """`CondConv2d` as a transposed convolution in one dimension; takes the arguments of `torch.nn.ConvTranspose1d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class CondConvTranspose2d(_CondConvTranspose2d):
    """`CondConv2d` as a transposed convolution in two dimensions; takes the arguments of `torch.nn.ConvTranspose2d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class CondConvTranspose3d(_CondConvTranspose3d):
    """`CondConv2d` as a transposed convolution in three dimensions; takes the arguments of `torch.nn.ConvTranspose3d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class DCDConv1d(_DCDConv1d):
    """`DCDConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class DCDConv2d(_DCDConv2d):
    """A convolution whose kernel is W(x) = Lambda(x) W0 + P Phi(x) Q^T.

    Lambda(x) scales the output channels of the static kernel W0. The residual mixes L latent channels with a dynamic
    L x L matrix Phi(x). For a kxk kernel it is added to the centre tap (``fusion="channel"``), covers all taps through
    R (``"joint"``), or, for a depthwise convolution, is P Phi(x) R^T (``"depthwise"``).

    With ``norm=None`` these equations hold exactly, also in train mode. With ``norm="batch"`` the residual is
    P (BN2(Phi(x) z) + z) with z = BN1(Q^T x), and Lambda also scales the bias, as in the published code. In eval mode
    the norms are folded into Phi, so that the layer has a kernel again.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the convolution.

    Deviations:
        The context is normalised over the batch, the branch has at least 16 hidden units, its hidden vector has unit
        length, Lambda is a sigmoid, and heads and residual are divided by lengths of their weights (`weight_norm`). The
        paper has none of these. A branch with ``context_norm=None, hidden_norm=None, weight_norm=False,
        scale_activation="linear"`` and without gradient clipping stays near chance accuracy at learning rates at which
        the static network trains; with clipping both train (`benchmarks/stability.py`, docs/families/dcd.md).

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1."""

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
    ) -> None: ...

class DCDConv3d(_DCDConv3d):
    """`DCDConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class DCDConvTranspose1d(_DCDConvTranspose1d):
    """`DCDConv2d` as a transposed convolution in one dimension; takes the arguments of `torch.nn.ConvTranspose1d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class DCDConvTranspose2d(_DCDConvTranspose2d):
    """`DCDConv2d` as a transposed convolution in two dimensions; takes the arguments of `torch.nn.ConvTranspose2d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class DCDConvTranspose3d(_DCDConvTranspose3d):
    """`DCDConv2d` as a transposed convolution in three dimensions; takes the arguments of `torch.nn.ConvTranspose3d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class DCDLinear(_DCDLinear):
    """A linear layer whose matrix is W(x) = Lambda(x) W0 + P Phi(x) Q^T; the context is the input vector itself.

    With `average_rows`, all rows of a sample of ``(B, ..., in_features)`` have one matrix, whose context is their mean:
    the layer then is a `DCDConv2d` of size 1 on channels-last features. With `context_features`, they have one matrix
    and a context ``(B, F)`` that is given.

    Args:
        in_features, out_features, bias, device, dtype: As for `torch.nn.Linear`.

    Options:
        context_norm: ``layer`` normalises each context over its features, ``batch`` each feature over the batch,
            ``running`` each feature by the statistics of earlier batches; none has scale and shift. With ``batch``
            in train mode, a kernel depends on the whole batch, and a single sample is normalised by running
            statistics. ``auto``: ``batch``, but None with ``norm="batch"``.
        algorithm: ``kernel`` forms W(x), ``factored`` applies its factors to feature maps, ``auto`` uses the cost
            model.
        context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
            one that several layers share; None: it reads the averaged input.
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

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1; a dynamic classifier is part of the published networks."""

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
    ) -> None: ...

class DYConv1d(_DYConv1d):
    """`DYConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class DYConv2d(_DYConv2d):
    """A convolution with W(x) = sum_k pi_k(x) W_k and a bias mixed in the same way; pi(x) is a softmax.

    The branch is average pool -> linear to max(C_in // reduction, min_hidden_channels) -> ReLU -> linear with bias to
    K -> softmax with temperature. The paper's temperature falls from 30 to 1 over the first ten epochs, so that every
    kernel learns at first; see `dynaconv.set_temperature` and the callback of ``dynaconv train``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Deviations:
        The temperature starts at 1, the plain softmax. With an initial temperature of 30 and no schedule, a layer would
        stay close to the mean of its kernels.

    Reference: Chen et al., CVPR 2020, arXiv:1912.03458v2."""

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
    ) -> None: ...

class DYConv3d(_DYConv3d):
    """`DYConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class DYConvTranspose1d(_DYConvTranspose1d):
    """`DYConv2d` as a transposed convolution in one dimension; takes the arguments of `torch.nn.ConvTranspose1d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class DYConvTranspose2d(_DYConvTranspose2d):
    """`DYConv2d` as a transposed convolution in two dimensions; takes the arguments of `torch.nn.ConvTranspose2d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class DYConvTranspose3d(_DYConvTranspose3d):
    """`DYConv2d` as a transposed convolution in three dimensions; takes the arguments of `torch.nn.ConvTranspose3d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class FDConv2d(_FDConv2d):
    """A convolution whose kernel is gated along each axis and in its spectrum, of an input modulated band by band.

    ``y = conv(modulate(x); W(x)) + bias``, ``W(x)[o, c, t] = spatial_t channel_c filter_o local_oct V(x)[o, c, t]``.
    The static kernel, as one image of C_out * k rows and C_in * k columns, is stored as the spectrum of that image. Its
    frequencies, sorted by their distance from zero, form K groups of equal size; V(x) is the kernel whose frequencies
    are multiplied by the gain of their group. All gates and gains depend on the averages of x over its pixels: through
    a hidden layer with batch norm, or, for the local gates, through a convolution along the channels. `modulate`
    multiplies bands of frequencies of x by maps that convolutions of x compute, by default only for 3x3 kernels. With
    `context_features`, the given context replaces the averages for all but the local gates, which belong to channels.

    In train mode the branch's batch norm uses the statistics of the batch, so W(x) of a sample depends on the others.
    `kernel` and `coefficients` also use them, but do not update the running statistics.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`. The kernel must be 1x1 or 3x3, with one group.

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

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Deviations:
        Where K does not divide the number of frequencies, the published code raises, and it needs an even number of
        columns. It starts with random filter gates, which change the function of a converted network; here all heads
        start near zero. It replaces layers with at most 16 channels by static ones; here only `dynaconv.convert` and
        the registered networks do. `padding_mode`, float64 and a single sample in train mode work.

    Reference: Chen et al., CVPR 2025, arXiv:2503.18783, and its code, commit bf7a33d."""

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
    ) -> None: ...

class KernelWarehouseConv1d(_KernelWarehouseConv1d):
    """`KernelWarehouseConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others, or the budget or the divisors do not fit
            the kernel's size."""

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
    ) -> None: ...

class KernelWarehouseConv2d(_KernelWarehouseConv2d):
    """A convolution whose kernel consists of blocks, each a weighted sum of all cells of a warehouse.

    The kernels of the layers that share a warehouse are cut into blocks of one shape. Block m of a layer's kernel is
    W_m(x) = sum_j a_mj(x) E_j over the n cells E_j, and there is no other kernel: `weight` is computed from the cells.
    The branch is average pool -> linear to max(C_in // reduction, min_hidden_channels) -> batch norm -> ReLU -> linear
    to logits t for the n cells and a null cell in each block. The weights are
    a_mj = (1 - tau) t_mj / (sum_k |t_mk| + 0.001) + tau beta_mj, with the temperature tau and a constant beta that is 1
    for the cell from which a block starts. tau falls from 1 to 0 during training, see `dynaconv.set_temperature` and
    the callback of ``dynaconv train``.

    A layer that is built alone has a warehouse of its own. `dynaconv.share_cells` makes several layers share one;
    `dynaconv.convert` and the registered networks do so.

    In train mode the branch's batch norm uses the statistics of the batch, so W(x) of a sample depends on the others.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others, or the budget or the divisors do not fit
            the kernel's size.

    Deviations:
        The temperature starts at 0, so that a layer without a schedule is dynamic. A single sample in train mode is
        normalised by running statistics.

    Reference: Li and Yao, ICML 2024, arXiv:2406.07879."""

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
    ) -> None: ...

class KernelWarehouseConv3d(_KernelWarehouseConv3d):
    """`KernelWarehouseConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others, or the budget or the divisors do not fit
            the kernel's size."""

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
    ) -> None: ...

class KernelWarehouseLinear(_KernelWarehouseLinear):
    """A linear layer whose matrix consists of blocks, each a weighted sum of the cells of a warehouse.

    It maps ``(B, ..., in_features)`` to ``(B, ..., out_features)``, all tokens of a sample by the same matrix. The
    context is the mean over the tokens. Otherwise it is `KernelWarehouseConv2d` with a kernel of size 1.

    Args:
        in_features, out_features, bias, device, dtype: As for `torch.nn.Linear`.

    Options:
        context_norm: Norm of the branch's input, without scale and shift: ``layer`` normalises over the features,
            ``batch`` each feature over the batch, ``running`` each feature by the statistics of earlier batches;
            None: no norm. In eval mode ``batch`` and ``running`` have fixed statistics, and `dynaconv.deploy` folds
            them into the branch.
        context_features: F: the branch reads a context ``(B, F)`` that is given as ``layer(x, context)``, such as
            one that several layers share; None: it reads the averaged input.
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

    Raises:
        ValueError: an argument is out of range or does not match the others, or the budget or the divisors do not fit
            the matrix.

    Reference: Li and Yao, ICML 2024, arXiv:2406.07879; the classifier of the published MobileNetV2 networks with a
        budget of 1/2."""

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
    ) -> None: ...

class ODConv1d(_ODConv1d):
    """`ODConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class ODConv2d(_ODConv2d):
    """A convolution with W(x)[o, i, t] = filter_o(x) channel_i(x) spatial_t(x) sum_k kernel_k(x) W_k[o, i, t].

    The branch is average pool -> linear to max(C_in // reduction, min_hidden_channels) -> batch norm -> ReLU -> one
    linear map with bias for each attention. Every logit is divided by the temperature. The attentions over input
    channels, output channels and positions are sigmoids, the attention over the K kernels is a softmax. An attention
    without effect is left out: over kernels if there is one, over positions if there is one, over output channels if
    each has one input channel of its own (depthwise with C_out = C_in).

    In train mode the branch's batch norm uses the statistics of the batch, so W(x) of a sample depends on the others.
    `kernel` and `coefficients` also use them, but do not update the running statistics.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Deviations:
        The layer can have a bias, which is added last; the published layer has none. The temperature starts at 1. The
        kernels are initialised as in `torch.nn.Conv2d`; the published code draws them from a normal distribution by
        fan-out. The branch is initialised as published, but see `fresh_like` for networks. A single sample in train
        mode is normalised by running statistics.

    Reference: Li et al., ICLR 2022, arXiv:2209.07947v1 (openreview DmpCfq6Mg39)."""

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
    ) -> None: ...

class ODConv3d(_ODConv3d):
    """`ODConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class SEConv1d(_SEConv1d):
    """`SEConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...

class SEConv2d(_SEConv2d):
    """A convolution whose output y is scaled per channel by s = sigmoid(F2 relu(F1 pool(y))).

    As a dynamic convolution, W(x) = diag(s) W and the bias is s * bias. Unlike Lambda(x) of `dynaconv.DCDConv2d`, s
    depends on the output, so the convolution has to run before its kernel is known. F1 and F2 have biases; F1 has
    max(C_out // reduction, min_hidden_channels) outputs.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Deviations:
        The paper scales a residual block's output after its last batch norm. Here the output of the convolution is
        scaled directly, before any norm, so that networks of different families differ only in their convolutions.

    Reference: Hu et al., CVPR 2018, arXiv:1709.01507v4."""

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
    ) -> None: ...

class SEConv3d(_SEConv3d):
    """`SEConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`.

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

    Raises:
        ValueError: an argument is out of range or does not match the others."""

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
    ) -> None: ...
