"""Variation of a dynamic network's kernels over images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.example import eval_mode
from dynaconv.explain.mixtures import ratio
from dynaconv.measure.modules import is_dynamic


@torch.inference_mode()
def kernel_movement(model: nn.Module, batches: Iterable[Any], *, max_batches: int | None = None) -> dict[str, float]:
    """Return the relative standard deviation of each dynamic layer's kernel over a data set.

    For the kernels W(x) of all images x it is sqrt(E ||W(x) - E W||^2) / ||E W||, with the Frobenius norm: 0 for a
    static kernel, 0.1 if the root mean square distance of the kernels from their mean is a tenth of the mean's norm.
    The network runs in eval mode; its state does not change. Sums are computed in float64.

    Args:
        model: A network with dynamic layers.
        batches: Images ``(B, C, H, W)``, or tuples that begin with them, such as those of a data loader.
        max_batches: Maximum number of batches; None for all.

    Returns:
        The deviation by dotted layer name, in the order of execution.

    Raises:
        ValueError: The model has no dynamic layer, or no batch reached one.
    """
    names = {module: name for name, module in model.named_modules() if is_dynamic(module)}
    if not names:
        raise ValueError(f"{type(model).__name__} has no dynamic layer: no module has a method `coefficients(x)`.")
    sums: dict[str, list[Any]] = {}

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kernels = module.kernel(inputs[0]).double()  # type: ignore[operator]
        count, mean, squares = sums.setdefault(names[module], [0, torch.zeros_like(kernels[0]), 0.0])
        # Sum squares about the batch's own mean, then merge: a difference of two large sums would lose precision.
        total, own = count + len(kernels), kernels.mean(0)
        step = own - mean
        squares += float((kernels - own).square().sum()) + float(step.square().sum()) * count * len(kernels) / total
        sums[names[module]] = [total, mean + step * (len(kernels) / total), squares]

    hooks = [module.register_forward_pre_hook(add) for module in names]
    device = next(model.parameters()).device
    try:
        with eval_mode(model):
            for index, batch in enumerate(batches):
                if index == max_batches:
                    break
                model((batch if isinstance(batch, Tensor) else batch[0]).to(device))
    finally:
        for hook in hooks:
            hook.remove()
    if not sums:
        raise ValueError(
            "no batch reached a dynamic layer: there is no image, or the network does not call these layers."
        )
    return {name: ratio((squares / count) ** 0.5, float(mean.norm())) for name, (count, mean, squares) in sums.items()}
