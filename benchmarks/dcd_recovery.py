"""How often is a mixture that is a DCD recognised as one?

    python benchmarks/dcd_recovery.py                  # 60 random mixtures, about a minute on one core
    python benchmarks/dcd_recovery.py --restarts 0

Kernels W_k = Lambda_k W0 + P Phi_k Q^T with normal entries, so that W(x) is a DCD of size L for every attention that
sums to one. `fit_dcd` of size L should reach an error of zero; where alternation stops in another minimum it does not.
"""

import argparse
import random
import statistics
import time

import torch
from torch import Tensor

from dynaconv.explain.dcd_fit import fit_dcd

RECOVERED = 1e-6


def exact_dcd(num_kernels: int, rows: int, columns: int, latent: int, spread: float) -> Tensor:
    """Kernels ``(K, rows, columns, 1, 1)``; ``spread`` is the standard deviation of Lambda around 1."""
    weight = torch.randn(rows, columns, dtype=torch.float64) / columns**0.5
    scale = 1 + spread * torch.randn(num_kernels, rows, 1, dtype=torch.float64)
    p, q = torch.randn(rows, latent, dtype=torch.float64), torch.randn(columns, latent, dtype=torch.float64)
    fusion = torch.randn(num_kernels, latent, latent, dtype=torch.float64)
    residual = (p / rows**0.5) @ fusion @ (q / columns**0.5).T
    kernels: Tensor = scale * weight + residual
    return kernels[..., None, None]


def main() -> None:
    """Print how many are recovered, by the spread of Lambda."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixtures", type=int, default=60, help="how many, a third at each spread of Lambda")
    parser.add_argument(
        "--restarts", type=int, default=8, help="random starts beside the two that `fit_dcd` makes by itself"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    draw = random.Random(options.seed)
    for spread in (0.0, 0.3, 1.0):
        errors, seconds = [], []
        for _ in range(options.mixtures // 3):
            rows, columns = draw.randint(8, 24), draw.randint(8, 24)
            latent, num_kernels = draw.randint(1, 5), draw.choice((3, 4, 8))
            kernels = exact_dcd(num_kernels, rows, columns, latent, spread)
            attention = torch.softmax(2 * torch.randn(32, num_kernels, dtype=torch.float64), 1)
            start = time.perf_counter()
            errors.append(fit_dcd(kernels, attention, latent, restarts=options.restarts).error)
            seconds.append(time.perf_counter() - start)
        found = sum(error < RECOVERED for error in errors)
        print(
            f"Lambda spread {spread}: {found} of {len(errors)} below {RECOVERED:g}, worst {max(errors):.1e}, "
            f"median {statistics.median(seconds):.2f} s"
        )


if __name__ == "__main__":
    main()
