"""How far the kernels of a dynamic network move from image to image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis._units import eval_mode, is_dynamic


@torch.inference_mode()
def kernel_movement(model: nn.Module, batches: Iterable[Any], *, max_batches: int | None = None) -> dict[str, float]:
    """Relative standard deviation of each dynamic layer's kernel over a data set.

    For the kernels W(x) of all images x it is sqrt(E ||W(x) - E W||^2) / ||E W||, with the Frobenius norm: 0 for a
    static kernel, 0.1 where kernels lie about a tenth of their length away from their mean. The network runs in eval
    mode and is left as it was. Sums are taken in float64.

    Args:
        model: A network with dynamic layers.
        batches: Images ``(B, C, H, W)``, or tuples that begin with them, such as a data loader gives.
        max_batches: Stop after so many; None for all.

    Returns:
        By the layers' dotted names, in the order the network runs them.

    Raises:
        ValueError: The model has no dynamic layer, or no batch reached one.
    """
    names = {module: name for name, module in model.named_modules() if is_dynamic(module)}
    if not names:
        raise ValueError(f"{type(model).__name__} has no dynamic layer.")
    sums: dict[str, list[Any]] = {}

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kernels = module.kernel(inputs[0]).double()  # type: ignore[operator]
        count, mean, squares = sums.setdefault(names[module], [0, torch.zeros_like(kernels[0]), 0.0])
        # Of each batch about its own mean, then merged: the difference of two large sums would lose the small one.
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
        raise ValueError("no batch reached a dynamic layer; there is no image, or the layers are not used.")
    return {name: (squares / count) ** 0.5 / float(mean.norm()) for name, (count, mean, squares) in sums.items()}
