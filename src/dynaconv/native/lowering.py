"""Lowers a deployed layer, static, DCD or a mixture of kernels, to a step of a native program."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.deployed import (
    AffineMap,
    AssembledKernel,
    DeployedBranch,
    DeployedConv,
    DeployedLayer,
    MixedKernel,
)
from dynaconv.families.dcd.deployed import DeployedDCD, DeployedDCDConv, DeployedDCDLinear
from dynaconv.native.packing import blocks, dense_weight, depthwise_weight, padded_vector, panels, round_up
from dynaconv.native.steps import (
    ACTIVATIONS,
    ALGORITHMS,
    BRANCH_ACTIVATIONS,
    DENSE,
    DEPTHWISE,
    MAX_POOL,
    MEAN,
    SCALE,
    SCALE_ACTIVATIONS,
    Step,
    UnsupportedError,
)


def activation_of(module: nn.Module | None) -> str | None:
    """Return the name of an activation that a step can fuse; None for any other module."""
    if module is None or type(module) is nn.Identity:
        return "none"
    if type(module) is nn.GELU and module.approximate != "none":
        return None
    names = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.SiLU: "silu", nn.GELU: "gelu", nn.Hardswish: "hardswish"}
    return names.get(type(module))


@torch.no_grad()
def lower(conv: nn.Module, activation: str = "none") -> list[Step]:
    """Return the steps that compute a layer and the activation after it in eval mode, each from the one before.

    Raises:
        UnsupportedError: The library has no kernel for the layer.
    """
    if type(conv) is nn.Conv2d:
        return [_static(conv, activation)]
    if isinstance(conv, DeployedDCD):
        return [_dcd(conv, activation)]
    if isinstance(conv, DeployedLayer):
        return _deployed(conv, activation)
    if type(conv) is nn.Linear or (type(conv).__module__, type(conv).__name__) == ("timm.layers.linear", "Linear"):
        return [_linear(conv, activation)]
    if type(conv) is nn.MaxPool2d and activation == "none":
        return [_max_pool(conv)]
    raise UnsupportedError(f"{type(conv).__name__} has no native form")


def _linear(layer: Any, activation: str) -> Step:
    _check_type(layer)
    geometry = _vector_geometry(layer.in_features, layer.out_features)
    return Step(
        kind=DENSE,
        weight=panels(layer.weight),
        bias=_vector(layer.bias),
        activation=ACTIVATIONS[activation],
        **geometry,
    )


def _max_pool(pool: nn.MaxPool2d) -> Step:
    if pool.ceil_mode or pool.return_indices:
        raise UnsupportedError("max pooling with ceil_mode or indices has no native form")
    kernel, stride, padding, dilation = map(_pair, (pool.kernel_size, pool.stride, pool.padding, pool.dilation))
    # The builder sets the channels to those of the step that this one reads.
    geometry: dict[str, Any] = dict(zip(("kernel_h", "kernel_w"), kernel, strict=True)) | dict(
        zip(("stride_h", "stride_w"), stride, strict=True)
    )
    geometry |= {"dilation_h": dilation[0], "dilation_w": dilation[1]}
    geometry |= {"pad_top": padding[0], "pad_left": padding[1], "pad_bottom": padding[0], "pad_right": padding[1]}
    return Step(kind=MAX_POOL, in_channels=0, out_channels=0, **geometry)


def mean_step() -> Step:
    """Return the step of the mean over all pixels; the builder sets its channels."""
    return Step(kind=MEAN, **_vector_geometry(0, 0))


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _static(conv: Any, activation: str) -> Step:
    _check_type(conv)
    geometry = _geometry(conv)
    if _is_depthwise(conv):
        weight, kind = depthwise_weight(conv.weight), DEPTHWISE
    else:
        weight, kind = dense_weight(conv.weight, conv.groups), DENSE
    return Step(kind=kind, weight=weight, bias=_vector(conv.bias), activation=ACTIVATIONS[activation], **geometry)


def _is_depthwise(conv: Any) -> bool:
    return bool(1 < conv.groups == conv.in_channels == conv.out_channels)


def _check_type(layer: Any) -> None:
    weight: Tensor = layer.stored_kernel if isinstance(layer, DeployedLayer) else layer.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise UnsupportedError(f"weights of {weight.dtype} on {weight.device} are not float32 on the CPU")


def _vector_geometry(inputs: int, outputs: int) -> dict[str, Any]:
    """Return the geometry of a linear layer: a 1x1 convolution on images of one pixel."""
    ones = ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w")
    pads = ("pad_top", "pad_left", "pad_bottom", "pad_right")
    return {"in_channels": inputs, "out_channels": outputs} | dict.fromkeys(ones, 1) | dict.fromkeys(pads, 0)


def _geometry(conv: Any) -> dict[str, Any]:
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
        "groups": 1 if _is_depthwise(conv) else conv.groups,
    }


def _dcd(form: DeployedDCD, activation: str) -> Step:
    _check_type(form)
    sizes, branch = form.sizes, form.branch
    _check_context(form)
    if form.has_input_scale:
        raise UnsupportedError("DCD that scales its input")
    if isinstance(form, DeployedDCDConv):
        if form.dims != 2 or form.transposed:
            raise UnsupportedError("convolutions have a native form only in two dimensions, and not transposed")
        depthwise = sizes.form == "depthwise" and form.groups == form.out_channels
        if not depthwise and (sizes.form != "channel" or sizes.blocks != 1 or form.groups != 1):
            raise UnsupportedError(f"DCD of form {sizes.form!r} with {sizes.blocks} block(s) and groups={form.groups}")
        weight, geometry = (depthwise_weight if depthwise else dense_weight)(form.weight), _geometry(form)
        cells = form.context_size**2
    else:
        assert isinstance(form, DeployedDCDLinear)
        depthwise, cells = False, 1
        weight, geometry = panels(form.weight), _vector_geometry(form.in_features, form.out_features)
    heads = _dcd_heads(form)
    step = Step(
        kind=DEPTHWISE if depthwise else DENSE,
        weight=weight,
        bias=None if "shift" in branch.heads else _vector(form.bias),
        activation=ACTIVATIONS[activation],
        dynamic=1,
        algorithm=ALGORITHMS[form.asked],
        scaled_bias=_vector(form.scaled_bias),
        has_scale=int(form.has_scale),
        scale_activation=SCALE_ACTIVATIONS[form.scale_activation] if form.has_scale else 0,
        has_shift=int("shift" in branch.heads),
        **_branch(branch, form.in_features if isinstance(form, DeployedDCDLinear) else form.in_channels, cells),
        **_heads(heads),
        **geometry,
    )
    if form.p is not None:
        step.latent, step.p = form.p.shape[1], panels(form.p)
        if form.q is not None:
            step.q, step.q_rows = panels(form.q.T), blocks(form.q.T)
        elif form.r is not None:
            step.q_rows = blocks(form.r.T)
    return step


def _check_context(form: Any) -> None:
    if form.context_features is not None:
        raise UnsupportedError("a context that is given to the layer")


def _squeeze(weight: Tensor, cells: int) -> Tensor:
    """Return the branch's first linear map in panels; its inputs have the order (cell of the context, channel)."""
    return panels(weight.reshape(weight.shape[0], -1, cells).transpose(1, 2).flatten(1))


def _dcd_heads(form: DeployedDCD) -> list[AffineMap]:
    """Return the heads in the order of the step: Lambda, the bias of each sample, Phi in panels."""
    branch = form.branch
    heads = [branch.head(name) for name in ("scale", "shift") if name in branch.heads]
    if form.p is not None:
        fusion, latent = branch.head("fusion"), form.p.shape[1]
        rows = _phi_order(fusion.weight, latent)
        heads.append(AffineMap(rows, _phi_order(fusion.constant[:, None], latent)[:, 0]))
    return heads


def _deployed(form: DeployedLayer, activation: str) -> list[Step]:
    _check_type(form)
    _check_context(form)
    assembled, mixed, excitation = form.assembled_kernel(), form.mixed_kernel(), form.excitation()
    if not isinstance(form, DeployedConv):
        if assembled is None:
            raise UnsupportedError(f"{type(form).__name__} has no native form")
        return [_assembled(form, assembled, activation)]
    if form.dims != 2 or form.transposed or (assembled is None and mixed is None and excitation is None):
        raise UnsupportedError(f"{type(form).__name__} with these arguments has no native form")
    if assembled is not None:
        return [_assembled(form, assembled, activation)]
    if mixed is not None:
        return [_mixture(form, mixed, activation)]
    assert excitation is not None
    scale = scale_step(form.branch, excitation, "sigmoid")
    scale.bias, scale.activation = _vector(form.shift), ACTIVATIONS[activation]
    return [_static(form, "none"), scale]


def scale_step(branch: DeployedBranch, head: AffineMap, gate: str) -> Step:
    """Return the step that multiplies each channel by a gate, which a branch computes from the mean of all pixels.

    Args:
        branch: Maps the mean to the hidden vector.
        head: Maps the hidden vector to logits.
        gate: ``sigmoid`` or ``hard_sigmoid``, applied to the logits.
    """
    channels = len(head.weight)
    return Step(
        kind=SCALE,
        dynamic=1,
        has_scale=1,
        scale_activation=SCALE_ACTIVATIONS[gate],
        **_branch(branch, channels),
        **_heads([head]),
        **_vector_geometry(channels, channels),
    )


def _mixture(form: DeployedConv, mixed: MixedKernel, activation: str) -> Step:
    geometry, heads = _geometry(form), dict(mixed.heads)
    depthwise = _is_depthwise(form)
    if depthwise and "channel" in heads and "filter" not in heads:
        # Each filter reads one channel.
        heads["filter"] = heads.pop("channel")
    if depthwise and "channel" in heads:
        raise UnsupportedError("a depthwise mixture with attention over both input and output channels")
    sigmoids = [name for name in ("filter", "channel", "spatial") if name in heads]
    # The kernels compute twice the sigmoid, as the scale activation of DCD does.
    stack = mixed.kernels * 0.5 ** len(sigmoids)
    maps = [heads["filter"]] if "filter" in heads else []
    if "kernel" in heads:
        kernel = heads["kernel"]
        first = torch.zeros_like(kernel.weight[: int(mixed.static)])
        maps.append(AffineMap(torch.cat([first, kernel.weight]), torch.cat([first[:, 0], kernel.constant])))
    maps += [heads[name] for name in ("channel", "spatial") if name in heads]
    return Step(
        kind=DEPTHWISE if depthwise else DENSE,
        weight=blocks(stack.permute(1, 3, 4, 2, 0).flatten(1)) if depthwise else dense_weight(stack, form.groups),
        bias=_vector(mixed.bias),
        activation=ACTIVATIONS[activation],
        dynamic=1,
        scaled_bias=None if mixed.scaled_bias is None else padded_vector(mixed.scaled_bias * 0.5),
        has_scale=int("filter" in heads),
        scale_activation=SCALE_ACTIVATIONS["sigmoid"],
        kernels=len(stack),
        softmax=int(mixed.softmax),
        static_kernel=int(mixed.static),
        biases=None if mixed.biases is None else torch.cat([padded_vector(bias) for bias in mixed.biases]),
        has_channel=int("channel" in heads),
        has_spatial=int("spatial" in heads),
        **_branch(mixed.branch, form.in_channels),
        **_heads(maps),
        **geometry,
    )


def _assembled(form: Any, assembled: AssembledKernel, activation: str) -> Step:
    cells, norm = assembled.cells, assembled.hidden_norm
    linear = not isinstance(form, DeployedConv)
    geometry = _vector_geometry(form.in_features, form.out_features) if linear else _geometry(form)
    blend = None
    if assembled.start is not None:
        tau, start = assembled.start
        blend = torch.cat([padded_vector(cells.new_tensor([1 - tau])), tau * start.to(cells).flatten()])
    # The cells of a linear map have one axis of taps, of length 1.
    num_cells, cell_out, cell_in, cell_h, cell_w = (*cells.shape, 1)[:5]
    # (taps, c_i, c_o, n)
    elements = cells.reshape(*cells.shape[:3], -1).permute(3, 2, 1, 0)
    return Step(
        kind=DENSE if linear or not _is_depthwise(form) else DEPTHWISE,
        bias=_vector(assembled.bias),
        activation=ACTIVATIONS[activation],
        dynamic=1,
        hidden_norm=None if norm is None else torch.cat([padded_vector(part) for part in norm]),
        cells=panels(elements.flatten(0, 2)),
        num_cells=num_cells,
        cell_out=cell_out,
        cell_in=cell_in,
        cell_h=cell_h,
        cell_w=cell_w,
        blend=blend,
        channel_scale=_vector(assembled.scale),
        **_branch(assembled.branch, geometry["in_channels"]),
        **_heads([assembled.head]),
        **geometry,
    )


def _branch(branch: DeployedBranch, inputs: int, cells: int = 1) -> dict[str, Any]:
    """Return the fields of a branch, except its heads. Its context has ``inputs`` channels in each cell."""
    fields: dict[str, Any] = {"context_size": math.isqrt(cells), "normalise": int(branch.normalise)}
    squeeze = branch.squeeze
    if squeeze is None:
        return fields | {"hidden": inputs}
    if branch.activation not in BRANCH_ACTIVATIONS:
        raise UnsupportedError(f"a branch with the activation {branch.activation!r} has no native form")
    return fields | {
        "hidden": len(squeeze.weight),
        "squeeze": _squeeze(squeeze.weight, cells),
        "squeeze_bias": _vector(squeeze.bias),
        "branch_activation": BRANCH_ACTIVATIONS[branch.activation],
        "gate": None if branch.gate is None else panels(branch.gate.weight),
        "unit": int(branch.unit),
    }


def _heads(maps: list[AffineMap]) -> dict[str, Any]:
    """Return all heads as one affine map, in which each of them starts at a multiple of 16."""
    rows = torch.cat([_pad_rows(each.weight) for each in maps])
    return {"heads": panels(rows), "heads_bias": torch.cat([padded_vector(each.constant) for each in maps])}


def _vector(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else padded_vector(vector)


def _pad_rows(matrix: Tensor) -> Tensor:
    return F.pad(matrix, (0, 0, 0, round_up(matrix.shape[0]) - matrix.shape[0]))


def _phi_order(rows: Tensor, latent: int) -> Tensor:
    """Reorder the rows that compute Phi, ``(L * L, ...)``, so that their output Phi is in panels."""
    assert rows.shape[0] == math.prod((latent, latent))
    # Index 0 is padding: the row of zeros.
    indices = panels(torch.arange(1, latent * latent + 1, dtype=torch.float64).reshape(latent, latent)).long()
    return torch.cat([torch.zeros_like(rows[:1]), rows])[indices]
