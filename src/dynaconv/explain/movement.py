"""Variation of a dynamic network's kernels over images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor, nn

from dynaconv.conversion.freeze import KernelMean, kernel_means
from dynaconv.errors import with_article
from dynaconv.explain.mixtures import ratio
from dynaconv.families.contract.checks import check_module
from dynaconv.measure.modules import is_dynamic


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
    layers = dynamic_layers(model)
    return {
        layers[layer]: movement_of(mean) for layer, mean in reached_means(model, layers, batches, max_batches).items()
    }


def dynamic_layers(model: nn.Module) -> dict[nn.Module, str]:
    """Return the dynamic layers of a network and their names. Raise ValueError if it has none."""
    check_module(model)
    layers = {module: name for name, module in model.named_modules() if is_dynamic(module)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no dynamic layer: no module has a method `coefficients(x)`.")
    return layers


def reached_means(
    model: nn.Module, layers: dict[nn.Module, str], batches: Iterable[Any], max_batches: int | None
) -> dict[nn.Module, KernelMean]:
    """Return the mean kernel of each layer that is called. Raise ValueError if no batch reaches any of them."""
    means = kernel_means(model, layers, batches, max_batches=max_batches)
    if not means:
        raise ValueError(
            "no batch reached a dynamic layer: there is no image, or the network does not call these layers."
        )
    return means


def movement_of(mean: KernelMean) -> float:
    """Return the relative standard deviation of a layer's kernel, see `kernel_movement`."""
    return ratio((mean.squares / mean.count) ** 0.5, float(mean.kernel.norm()))


def labelled(batches: Iterable[Any], max_batches: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first batches, after a check that each is a pair of images and classes.

    Raises:
        TypeError: A batch is something else, such as images alone.
    """
    for batch in islice(batches, max_batches):
        if not (
            isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(each, Tensor) for each in batch)
        ):
            raise TypeError(f"a batch must be a pair of images and classes; got {with_article(type(batch).__name__)}.")
        yield batch[0], batch[1]
