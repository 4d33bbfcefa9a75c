"""The coefficients of a mixture of kernels, and the mixture by plain operators."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from dynaconv.ops.eager import differentiable_gradients
from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.mixture.kernel import mix_kernels
from dynaconv.ops.per_sample import per_sample_conv


class Attentions(NamedTuple):
    """Coefficients of W(x)[o, i, t] = filter_o channel_i spatial_t sum_k kernel_k W_k[o, i, t], each ``(B, N)``."""

    kernel: Tensor
    channel: Tensor | None = None
    spatial: Tensor | None = None
    filter: Tensor | None = None


def plain_mixture(x: Tensor, attentions: Attentions, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Convolve each sample with its mixture of kernels, as `compiled_mixture` does."""
    kernel = mix_kernels(attentions.kernel, kernels)
    if attentions.channel is not None:
        kernel = kernel * over_pixels(attentions.channel[:, None], 2)
    if attentions.spatial is not None:
        kernel = kernel * attentions.spatial.reshape(len(x), 1, 1, *geometry.kernel_size)
    out = per_sample_conv(x, kernel, geometry)
    return out if attentions.filter is None else out * over_pixels(attentions.filter, 2)


def second_gradients(
    x: Tensor, kernels: Tensor, geometry: Geometry, attentions: Sequence[Tensor | None], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Return differentiable gradients of `plain_mixture`: those of ``x``, of the kernels and of each coefficient."""
    given = [part is not None for part in attentions]

    def run(x: Tensor, kernels: Tensor, *parts: Tensor) -> Tensor:
        return plain_mixture(x, Attentions(*_placed(given, parts)), kernels, geometry)  # type: ignore[arg-type]

    inputs = (x, kernels, *(part for part in attentions if part is not None))
    to_x, to_kernels, *rest = differentiable_gradients(run, inputs, gradient)
    return to_x, to_kernels, *_placed(given, rest)


def _placed(given: Sequence[bool], parts: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the parts at the places where one is given, and None elsewhere."""
    rest = iter(parts)
    return [next(rest) if each else None for each in given]
