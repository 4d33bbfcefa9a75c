"""The paper's default latent sizes."""

import math


def default_latent_dim(channels: float) -> int:
    """L = floor(C / 2^floor(log2 sqrt(C))), at least 1.

    The paper's text requires L^2 < C, but its formula gives L^2 >= C for some C (C = 64 gives 8, C = 96 gives 12). This
    function follows the formula, which keeps L between sqrt(C) and 2 sqrt(C).

    Args:
        channels: C, the smaller of the input and output channels of one block; C / L_k if several taps are latent.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1.
    """
    if channels < 1:
        return 1
    # log2(sqrt(C)) = log2(C) / 2; the halved logarithm of a power of two is exact.
    return max(1, math.floor(channels / 2.0 ** math.floor(math.log2(channels) / 2)))


def default_latent_taps(num_taps: int) -> int:
    """L_k = floor(k^2 / 2), at least 1.

    Reference: Li et al., ICLR 2021, arXiv:2103.08756v1.
    """
    return max(1, num_taps // 2)
