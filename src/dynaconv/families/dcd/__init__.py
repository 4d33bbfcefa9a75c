"""Dynamic convolution decomposition: W(x) = Lambda(x) W0 + P Phi(x) Q^T (arXiv:2103.08756)."""

from dynaconv.families.dcd.factored import factored_dcd
from dynaconv.families.dcd.factors import DCDFactors, DCDForm
from dynaconv.families.dcd.fold import fold_latent_norms
from dynaconv.families.dcd.kernel import dcd_kernel, kernel_dcd
from dynaconv.families.dcd.reference import reference_dcd, reference_dcd_kernel, reference_normalised_dcd
from dynaconv.families.dcd.sizes import default_latent_dim, default_latent_taps

__all__ = [
    "DCDFactors",
    "DCDForm",
    "dcd_kernel",
    "default_latent_dim",
    "default_latent_taps",
    "factored_dcd",
    "fold_latent_norms",
    "kernel_dcd",
    "reference_dcd",
    "reference_dcd_kernel",
    "reference_normalised_dcd",
]
