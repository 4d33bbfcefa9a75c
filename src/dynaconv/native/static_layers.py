"""Lowers static layers to steps of a native program."""

from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.families.contract.deployed import DeployedLayer
from dynaconv.native.steps import DENSE, DEPTHWISE, MAX_POOL, MEAN, NORM, Step, UnsupportedError
from dynaconv.ops.packing import PANEL, dense_weight, depthwise_weight, padded_vector, panel_width, panels


def activation_of(module: nn.Module | None) -> str | None:
    """Return the name of an activation that a step can fuse; None for any other module."""
    if module is None or type(module) is nn.Identity:
        return "none"
    if type(module) is nn.GELU and module.approximate != "none":
        return None
    names = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.SiLU: "silu", nn.GELU: "gelu", nn.Hardswish: "hardswish"}
    return names.get(type(module))


def static_step(conv: Any) -> Step:
    """Return the step of a convolution with the attributes of `torch.nn.Conv2d`."""
    check_type(conv)
    return kernel_step(conv, conv.weight, conv.bias)


def kernel_step(conv: Any, weight: Tensor, bias: Tensor | None) -> Step:
    """Return the step of a convolution with the geometry of ``conv`` and another kernel and bias."""
    depthwise = is_depthwise(conv)
    packed = depthwise_weight(weight) if depthwise else dense_weight(weight, conv.groups)
    return Step(kind=DEPTHWISE if depthwise else DENSE, weight=packed, bias=vector(bias), **geometry_of(conv))


def is_depthwise(conv: Any) -> bool:
    """Return whether each output channel of a convolution reads one input channel."""
    return bool(1 < conv.groups == conv.in_channels == conv.out_channels)


def linear_step(layer: Any) -> Step:
    """Return the step of a linear layer."""
    check_type(layer)
    geometry = vector_geometry(layer.in_features, layer.out_features)
    return Step(
        kind=DENSE,
        weight=panels(layer.weight),
        bias=vector(layer.bias),
        **geometry,
    )


def max_pool_step(pool: nn.MaxPool2d) -> Step:
    """Return the step of max pooling; the builder sets its channels."""
    if pool.ceil_mode or pool.return_indices:
        raise UnsupportedError("max pooling with ceil_mode or indices has no native form")
    kernel, stride, padding, dilation = map(_pair, (pool.kernel_size, pool.stride, pool.padding, pool.dilation))
    geometry: dict[str, Any] = dict(zip(("kernel_h", "kernel_w"), kernel, strict=True)) | dict(
        zip(("stride_h", "stride_w"), stride, strict=True)
    )
    geometry |= {"dilation_h": dilation[0], "dilation_w": dilation[1]}
    geometry |= {"pad_top": padding[0], "pad_left": padding[1], "pad_bottom": padding[0], "pad_right": padding[1]}
    return Step(kind=MAX_POOL, in_channels=0, out_channels=0, **geometry)


def mean_step() -> Step:
    """Return the step of the mean over all pixels; the builder sets its channels."""
    return Step(kind=MEAN, **vector_geometry(0, 0))


def norm_step(norm: nn.LayerNorm) -> Step:
    """Return the step of a layer norm of each pixel over its channels."""
    check_type(norm)
    if len(norm.normalized_shape) != 1:
        raise UnsupportedError("a layer norm over several axes")
    (channels,) = norm.normalized_shape
    ones = torch.ones(channels)
    scale = padded_vector(ones if norm.weight is None else norm.weight)
    return Step(
        kind=NORM,
        weight=torch.cat([scale, scale.new_full((PANEL,), norm.eps)]),
        bias=vector(norm.bias),
        **vector_geometry(channels, channels),
    )


def scale_outputs(step: Step, scale: Tensor) -> None:
    """Multiply the output channels of a convolution's step, which has no residual yet, by ``scale``, ``(C_out,)``.

    Raises:
        UnsupportedError: The step is another one, or computes its bias from the input.
    """
    if step.kind not in (DENSE, DEPTHWISE) or step.has_shift or step.residual >= 0:
        raise UnsupportedError("a scale of channels behind something other than a convolution")
    padded = padded_vector(scale)
    dense = padded[: panel_width(len(scale))]
    if step.weight is not None:
        step.weight = _scale_rows(step.weight, dense if step.kind == DENSE else padded)
    if step.p is not None:
        step.p = _scale_rows(step.p, dense)
    if step.cells is not None:
        step.channel_scale = padded if step.channel_scale is None else step.channel_scale * padded
    for name in ("bias", "scaled_bias", "biases"):
        value = getattr(step, name)
        if value is not None:
            setattr(step, name, (value.reshape(-1, len(padded)) * padded).flatten())


def _scale_rows(packed: Tensor, scale: Tensor) -> Tensor:
    """Multiply the rows of a matrix in panels or blocks by ``scale``, ``(rows,)``, rounded up as they are."""
    columns, full = len(packed) // len(scale), len(scale) // PANEL * PANEL
    body, rest = packed[: full * columns].reshape(-1, columns, PANEL), packed[full * columns :]
    scaled = (body * scale[:full].reshape(-1, 1, PANEL)).flatten()
    return torch.cat([scaled, (rest.reshape(columns, -1) * scale[full:]).flatten()])


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def check_type(layer: Any) -> None:
    """Raise UnsupportedError unless the weights of a layer are float32 on the CPU."""
    weight: Tensor | None = layer.stored_kernel if isinstance(layer, DeployedLayer) else layer.weight
    if weight is not None and (weight.dtype != torch.float32 or weight.device.type != "cpu"):
        raise UnsupportedError(f"weights of {weight.dtype} on {weight.device} are not float32 on the CPU")


def vector_geometry(inputs: int, outputs: int) -> dict[str, Any]:
    """Return the geometry of a linear layer: a 1x1 convolution on images of one pixel."""
    ones = ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w")
    pads = ("pad_top", "pad_left", "pad_bottom", "pad_right")
    return {"in_channels": inputs, "out_channels": outputs} | dict.fromkeys(ones, 1) | dict.fromkeys(pads, 0)


def geometry_of(conv: Any) -> dict[str, Any]:
    """Return the geometry of a convolution."""
    if conv.padding_mode != "zeros":
        raise UnsupportedError(f"padding_mode={conv.padding_mode!r} has no native form")
    (kernel_h, kernel_w), (dilation_h, dilation_w) = conv.kernel_size, conv.dilation
    if isinstance(conv.padding, str):
        totals = [
            d * (k - 1) if conv.padding == "same" else 0 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
        ]
        pads = [(total // 2, total - total // 2) for total in totals]
    else:
        pads = [(pad, pad) for pad in conv.padding]
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": conv.stride[0],
        "stride_w": conv.stride[1],
        "dilation_h": dilation_h,
        "dilation_w": dilation_w,
        "pad_top": pads[0][0],
        "pad_left": pads[1][0],
        "pad_bottom": pads[0][1],
        "pad_right": pads[1][1],
        "groups": 1 if is_depthwise(conv) else conv.groups,
    }


def vector(values: Tensor | None) -> Tensor | None:
    """Pad a vector with zeros to a multiple of 16; None stays None."""
    return None if values is None else padded_vector(values)
