"""Lowers deployed layers to steps of a native program: static, DCD, mixtures of kernels, kernels of cells."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.affine import frozen_sum
from dynaconv.families.contract.deployed import (
    AffineMap,
    AssembledKernel,
    DeployedBranch,
    DeployedConv,
    DeployedLayer,
    MixedKernel,
)
from dynaconv.families.dcd.deployed import DeployedDCD, DeployedDCDConv, DeployedDCDLinear
from dynaconv.native.static_layers import (
    check_type,
    geometry_of,
    is_depthwise,
    kernel_step,
    linear_step,
    max_pool_step,
    static_step,
    vector,
    vector_geometry,
)
from dynaconv.native.steps import (
    ALGORITHMS,
    BRANCH_ACTIVATIONS,
    DENSE,
    DEPTHWISE,
    SCALE,
    SCALE_ACTIVATIONS,
    Step,
    UnsupportedError,
)
from dynaconv.ops.packing import blocks, dense_weight, depthwise_weight, padded_vector, panels, round_up


@torch.no_grad()
def lower(layer: nn.Module) -> list[Step]:
    """Return the steps that compute a layer in eval mode, each from the one before.

    Raises:
        UnsupportedError: The library has no kernel for the layer.
    """
    if type(layer) is nn.Conv2d:
        return [static_step(layer)]
    if isinstance(layer, DeployedDCD):
        return [_dcd(layer)]
    if isinstance(layer, DeployedLayer):
        return _deployed(layer)
    if type(layer) is nn.Linear or (type(layer).__module__, type(layer).__name__) == ("timm.layers.linear", "Linear"):
        return [linear_step(layer)]
    if type(layer) is nn.MaxPool2d:
        return [max_pool_step(layer)]
    raise UnsupportedError(f"{type(layer).__name__} has no native form")


def _dcd(form: DeployedDCD) -> Step:
    check_type(form)
    sizes, branch = form.sizes, form.branch
    _check_context(form)
    if form.has_input_scale:
        raise UnsupportedError("DCD that scales its input")
    if isinstance(form, DeployedDCDConv):
        if form.dims != 2 or form.transposed:
            raise UnsupportedError("convolutions have a native form only in two dimensions, and not transposed")
        depthwise = sizes.form == "depthwise" and form.groups == form.out_channels
        if not depthwise and (sizes.form != "channel" or form.groups != 1):
            raise UnsupportedError(f"DCD of form {sizes.form!r} with groups={form.groups}")
        weight, geometry = (depthwise_weight if depthwise else dense_weight)(form.weight), geometry_of(form)
        cells = form.context_size**2
    else:
        assert isinstance(form, DeployedDCDLinear)
        depthwise, cells = False, 1
        weight, geometry = panels(form.weight), vector_geometry(form.in_features, form.out_features)
    heads = _dcd_heads(form)
    step = Step(
        kind=DEPTHWISE if depthwise else DENSE,
        weight=weight,
        bias=None if "shift" in branch.heads else vector(form.bias),
        dynamic=1,
        algorithm=ALGORITHMS[form.asked],
        scaled_bias=vector(form.scaled_bias),
        has_scale=int(form.has_scale),
        scale_activation=SCALE_ACTIVATIONS[form.scale_activation] if form.has_scale else 0,
        has_shift=int("shift" in branch.heads),
        **_branch(branch, form.in_features if isinstance(form, DeployedDCDLinear) else form.in_channels, cells),
        **_heads(heads),
        **geometry,
    )
    if form.p is not None:
        p = _diagonal(form.p, sizes.blocks)
        step.latent, step.p = p.shape[1], panels(p)
        if form.q is not None:
            q = _diagonal(form.q, sizes.blocks).T
            step.q, step.q_rows = panels(q), blocks(q)
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
        fusion, sizes = branch.head("fusion"), (form.sizes.blocks, form.p.shape[1])
        rows = _phi_order(fusion.weight, *sizes)
        heads.append(AffineMap(rows, _phi_order(fusion.constant[:, None], *sizes)[:, 0]))
    return heads


def _diagonal(factor: Tensor, num_blocks: int) -> Tensor:
    """Return P or Q, ``(C, L)``, of a residual of several blocks as that of one block, ``(C, num_blocks * L)``."""
    placed: Tensor = torch.block_diag(*factor.chunk(num_blocks))  # type: ignore[no-untyped-call]
    return placed


def _deployed(form: DeployedLayer) -> list[Step]:
    check_type(form)
    _check_context(form)
    assembled, mixed, excitation = form.assembled_kernel(), form.mixed_kernel(), form.excitation()
    if not isinstance(form, DeployedConv):
        if assembled is None:
            raise UnsupportedError(f"{type(form).__name__} has no native form")
        return [_assembled(form, assembled)]
    if form.dims != 2 or form.transposed or (assembled is None and mixed is None and excitation is None):
        raise UnsupportedError(f"{type(form).__name__} with these arguments has no native form")
    if assembled is not None:
        return [_assembled(form, assembled)]
    if mixed is not None:
        return [_mixture(form, mixed)]
    assert excitation is not None
    scale = scale_step(form.branch, excitation, "sigmoid")
    scale.bias = vector(form.shift)
    return [static_step(form), scale]


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
        **vector_geometry(channels, channels),
    )


def _fixed(form: DeployedConv, mixed: MixedKernel) -> Step:
    """Return the step of a mixture of one kernel, whose weight is 1."""
    (kernel,) = mixed.kernels
    bias = mixed.bias if mixed.biases is None else frozen_sum(mixed.bias, mixed.biases[0], kernel)
    return kernel_step(form, kernel, bias)


def _mixture(form: DeployedConv, mixed: MixedKernel) -> Step:
    geometry, heads = geometry_of(form), dict(mixed.heads)
    if not heads:
        return _fixed(form, mixed)
    depthwise = is_depthwise(form)
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
        bias=vector(mixed.bias),
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


def _assembled(form: Any, assembled: AssembledKernel) -> Step:
    cells, norm = assembled.cells, assembled.hidden_norm
    linear = not isinstance(form, DeployedConv)
    geometry = vector_geometry(form.in_features, form.out_features) if linear else geometry_of(form)
    blend = None
    if assembled.start is not None:
        tau, start = assembled.start
        blend = torch.cat([padded_vector(cells.new_tensor([1 - tau])), tau * start.to(cells).flatten()])
    # The cells of a linear map have one axis of taps, of length 1.
    num_cells, cell_out, cell_in, cell_h, cell_w = (*cells.shape, 1)[:5]
    # (taps, c_i, c_o, n)
    elements = cells.reshape(*cells.shape[:3], -1).permute(3, 2, 1, 0)
    return Step(
        kind=DENSE if linear or not is_depthwise(form) else DEPTHWISE,
        bias=vector(assembled.bias),
        dynamic=1,
        hidden_norm=None if norm is None else torch.cat([padded_vector(part) for part in norm]),
        cells=panels(elements.flatten(0, 2)),
        num_cells=num_cells,
        cell_out=cell_out,
        cell_in=cell_in,
        cell_h=cell_h,
        cell_w=cell_w,
        blend=blend,
        channel_scale=vector(assembled.scale),
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
        "squeeze_bias": vector(squeeze.bias),
        "branch_activation": BRANCH_ACTIVATIONS[branch.activation],
        "gate": None if branch.gate is None else panels(branch.gate.weight),
        "unit": int(branch.unit),
    }


def _heads(maps: list[AffineMap]) -> dict[str, Any]:
    """Return all heads as one affine map, in which each of them starts at a multiple of 16."""
    rows = torch.cat([_pad_rows(each.weight) for each in maps])
    return {"heads": panels(rows), "heads_bias": torch.cat([padded_vector(each.constant) for each in maps])}


def _pad_rows(matrix: Tensor) -> Tensor:
    return F.pad(matrix, (0, 0, 0, round_up(matrix.shape[0]) - matrix.shape[0]))


def _phi_order(rows: Tensor, num_blocks: int, latent: int) -> Tensor:
    """Reorder the rows that compute Phi, ``(num_blocks * L * L, ...)``, so that their output Phi is in panels.

    Several blocks are the diagonal of one Phi, ``(num_blocks * L, num_blocks * L)``.
    """
    assert rows.shape[0] == num_blocks * latent * latent
    # Index 0 is padding: the row of zeros.
    numbers = torch.arange(1, len(rows) + 1, dtype=torch.float64).reshape(num_blocks, latent, latent)
    indices = panels(torch.block_diag(*numbers)).long()  # type: ignore[no-untyped-call]
    return torch.cat([torch.zeros_like(rows[:1]), rows])[indices]
