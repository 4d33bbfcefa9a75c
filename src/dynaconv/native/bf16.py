"""Kernels in bfloat16: rounded in the network, and stored in 16 bits in the steps of a program."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from dynaconv.conversion.select import is_convolution
from dynaconv.families.contract.deployed import DeployedLayer
from dynaconv.native.steps import DENSE, DEPTHWISE, PRECISIONS, Step
from dynaconv.ops.packing import bf16_words, panel_width, round_up


@torch.no_grad()
def round_kernels(network: nn.Module) -> None:
    """Round the float32 kernels of a deployed network in place to the nearest bfloat16 numbers, ties to even.

    These are the weights of convolutions and linear layers, static or dynamic: W0 of DCD, all kernels of a mixture, the
    cells of KernelWarehouse. Other tensors stay: biases, branches, P, Q and R of DCD.
    """
    for module in network.modules():
        kernel = _kernel(module)
        if kernel is not None and kernel.dtype == torch.float32:
            kernel.copy_(kernel.bfloat16())


def _kernel(module: nn.Module) -> Tensor | None:
    if isinstance(module, DeployedLayer):
        return module.stored_kernel
    if is_convolution(module) or isinstance(module, nn.Linear):
        weight: Tensor = module.weight  # type: ignore[assignment]
        return weight
    return None


def in_bf16(step: Step) -> Step:
    """Return a step with its kernel in bfloat16 if that changes none of its numbers; otherwise the step itself.

    It would if the kernel is multiplied by a factor of each channel, such as a layer scale. A depthwise kernel that is
    not a mixture also stays in float32: it is small, and no weights are formed from it.
    """
    depthwise = step.kind == DEPTHWISE
    if step.cells is not None and _is_exact(step.cells):
        stored = {"cells": bf16_words(step.cells, len(step.cells) // step.num_cells)}
    elif step.weight is not None and (step.kind == DENSE or (depthwise and step.is_mixture)) and _is_exact(step.weight):
        width = round_up(step.out_channels) if depthwise else panel_width(step.out_channels)
        stored = {"weight": bf16_words(step.weight, width, step.kernels)}
    else:
        return step
    return replace(step, precision=PRECISIONS["bf16"], **stored)  # type: ignore[arg-type]


def _is_exact(kernel: Tensor) -> bool:
    return torch.equal(kernel, kernel.bfloat16().to(kernel.dtype))
