"""The factors of a DCD kernel, the input of the algorithms."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.per_sample import pad_pixels


def split_rows(matrix: Tensor, blocks: int) -> Tensor:
    """Split the rows into blocks: ``(C, L)`` to ``(blocks, C / blocks, L)``."""
    return matrix.reshape(blocks, matrix.shape[0] // blocks, matrix.shape[1])


def at_centre(matrix: Tensor, geometry: Geometry) -> Tensor:
    """Return kernels ``(..., M, N, *k)`` with matrices ``(..., M, N)`` at the centre tap and zeros elsewhere."""
    after = [size - 1 - tap for size, tap in zip(geometry.kernel_size, geometry.centre, strict=True)]
    return pad_pixels(over_pixels(matrix, geometry.dims), geometry.centre, after)


def required(part: Tensor | None) -> Tensor:
    """Return a factor that the form has; it is not None."""
    assert part is not None
    return part


DCDForm = Literal["channel", "joint", "depthwise"]


class DCDFactors(NamedTuple):
    """The factors of W(x). A field is None if the variant does not have it.

    The form of the residual determines how `p`, `fusion`, `q` and `r` combine:

    - ``channel``: P_b Phi_b(x) Q_b^T for each block, at the centre tap (for a 1x1 kernel that is the whole kernel);
      ``fusion`` is ``(B, blocks, L, L)``; P multiplies its first latent axis.
    - ``joint``: Phi(x) x_1 Q x_2 P x_3 R; ``fusion`` is ``(B, blocks, L, L, L_k)``, with latent axes of Q, P, R.
    - ``depthwise``: P Phi(x) R^T; ``fusion`` is ``(B, L_k, L_k)``.
    """

    form: DCDForm
    weight: Tensor
    """W0, ``(C_out, C_in / groups, *k)``, also of a transposed convolution."""
    scale: Tensor | None = None
    """Diagonal of Lambda(x), ``(B, C_out)``."""
    fusion: Tensor | None = None
    """Phi(x)."""
    p: Tensor | None = None
    """``(C_out, L)``, with the rows of a block at its output channels; ``(C_out, L_k)`` in the depthwise form."""
    q: Tensor | None = None
    """``(C_in, L)``, with the rows of a block at its input channels."""
    r: Tensor | None = None
    """``(num_taps, L_k)``."""
    input_scale: Tensor | None = None
    """Diagonal of S(x), ``(B, C_in)``, which W(x) is multiplied by from the right."""

    @property
    def num_blocks(self) -> int:
        """Number of diagonal blocks of the residual."""
        return 1 if self.fusion is None or self.form == "depthwise" else self.fusion.shape[1]


def inverse_lengths(columns: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Return 1 / the product of the root-mean-square lengths of the columns of factors, each with their number."""
    lengths = [torch.linalg.vector_norm(factor) / math.sqrt(count) for factor, count in columns]
    # If a factor is zero, the product is zero, but the residual is zero too and stays zero.
    product: Tensor = math.prod(lengths[1:], start=lengths[0])
    return product.clamp(min=1e-12).reciprocal()


def activate_scale(logits: Tensor, activation: str) -> Tensor:
    """Compute Lambda from its logits; it is 1 at logit 0 for every activation."""
    if activation == "linear":
        return 1 + logits
    if activation == "hard_sigmoid":
        return F.relu6(logits + 3) / 3
    return 2 * torch.sigmoid(logits) if activation == "sigmoid" else 1 + torch.tanh(logits)
