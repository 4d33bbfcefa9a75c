"""Kernels in bfloat16: rounded in the network, and stored in 16 bits in the steps of a program."""

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


def store_kernel(step: Step) -> None:
    """Store the kernel of a step in bfloat16 if that changes none of its numbers.

    It would if the kernel is multiplied by a factor of each channel, such as a layer scale. A depthwise kernel that is
    not a mixture also stays in float32: it is small, and no weights are formed from it.
    """
    mixes = step.dynamic and (step.kernels > 1 or step.has_channel or step.has_spatial)
    depthwise = step.kind == DEPTHWISE
    if step.cells is not None and _is_exact(step.cells):
        step.cells = bf16_words(step.cells, len(step.cells) // step.num_cells)
    elif step.weight is not None and (step.kind == DENSE or (depthwise and mixes)) and _is_exact(step.weight):
        width = round_up(step.out_channels) if depthwise else panel_width(step.out_channels)
        step.weight = bf16_words(step.weight, width, step.kernels)
    else:
        return
    step.precision = PRECISIONS["bf16"]


def _is_exact(kernel: Tensor) -> bool:
    return torch.equal(kernel, kernel.bfloat16().to(kernel.dtype))
