"""Dynamic layers, one folder per family. `kernel(x)` of a layer returns the kernel that it applies to each sample."""

from dynaconv.families.condconv.family import CONDCONV
from dynaconv.families.condconv.layer import (
    CondConv1d,
    CondConv2d,
    CondConv3d,
    CondConvTranspose1d,
    CondConvTranspose2d,
    CondConvTranspose3d,
)
from dynaconv.families.contract.base import (
    DynamicConv,
    DynamicConv1d,
    DynamicConv2d,
    DynamicConv3d,
    DynamicConvTranspose1d,
    DynamicConvTranspose2d,
    DynamicConvTranspose3d,
)
from dynaconv.families.contract.deployed import DeployedLayer
from dynaconv.families.contract.layer import DynamicLayer
from dynaconv.families.contract.mixture import KernelMixture, KernelMixture2d, MixtureCoefficients
from dynaconv.families.contract.parameters import parameter_groups
from dynaconv.families.contract.shared import SharedContext
from dynaconv.families.contract.temperature import set_temperature
from dynaconv.families.dcd.config import DCDConfig
from dynaconv.families.dcd.core import DCDCoefficients
from dynaconv.families.dcd.family import DCD
from dynaconv.families.dcd.layer import (
    DCDConv1d,
    DCDConv2d,
    DCDConv3d,
    DCDConvTranspose1d,
    DCDConvTranspose2d,
    DCDConvTranspose3d,
    DCDLinear,
)
from dynaconv.families.dyconv.family import DYCONV
from dynaconv.families.dyconv.layer import (
    DYConv1d,
    DYConv2d,
    DYConv3d,
    DYConvTranspose1d,
    DYConvTranspose2d,
    DYConvTranspose3d,
)
from dynaconv.families.family import Coefficient, Family, families, family_of, get_family, register_family
from dynaconv.families.fdconv import FDConvCoefficients
from dynaconv.families.fdconv.family import FDCONV
from dynaconv.families.fdconv.layer import FDConv2d
from dynaconv.families.kernel_warehouse.attention import KernelWarehouseCoefficients
from dynaconv.families.kernel_warehouse.family import KERNEL_WAREHOUSE
from dynaconv.families.kernel_warehouse.layer import (
    KernelWarehouseConv1d,
    KernelWarehouseConv2d,
    KernelWarehouseConv3d,
    KernelWarehouseLinear,
)
from dynaconv.families.kernel_warehouse.sharing import share_cells
from dynaconv.families.kernel_warehouse.warehouse import Warehouse
from dynaconv.families.odconv import ODConvCoefficients
from dynaconv.families.odconv.family import ODCONV
from dynaconv.families.odconv.layer import ODConv1d, ODConv2d, ODConv3d
from dynaconv.families.se.family import SE
from dynaconv.families.se.layer import SECoefficients, SEConv1d, SEConv2d, SEConv3d

for _family in (CONDCONV, DCD, DYCONV, FDCONV, KERNEL_WAREHOUSE, ODCONV, SE):
    register_family(_family)

__all__ = [
    "Coefficient",
    "CondConv1d",
    "CondConv2d",
    "CondConv3d",
    "CondConvTranspose1d",
    "CondConvTranspose2d",
    "CondConvTranspose3d",
    "DCDCoefficients",
    "DCDConfig",
    "DCDConv1d",
    "DCDConv2d",
    "DCDConv3d",
    "DCDConvTranspose1d",
    "DCDConvTranspose2d",
    "DCDConvTranspose3d",
    "DCDLinear",
    "DYConv1d",
    "DYConv2d",
    "DYConv3d",
    "DYConvTranspose1d",
    "DYConvTranspose2d",
    "DYConvTranspose3d",
    "DeployedLayer",
    "DynamicConv",
    "DynamicConv1d",
    "DynamicConv2d",
    "DynamicConv3d",
    "DynamicConvTranspose1d",
    "DynamicConvTranspose2d",
    "DynamicConvTranspose3d",
    "DynamicLayer",
    "FDConv2d",
    "FDConvCoefficients",
    "Family",
    "KernelMixture",
    "KernelMixture2d",
    "KernelWarehouseCoefficients",
    "KernelWarehouseConv1d",
    "KernelWarehouseConv2d",
    "KernelWarehouseConv3d",
    "KernelWarehouseLinear",
    "MixtureCoefficients",
    "ODConv1d",
    "ODConv2d",
    "ODConv3d",
    "ODConvCoefficients",
    "SECoefficients",
    "SEConv1d",
    "SEConv2d",
    "SEConv3d",
    "SharedContext",
    "Warehouse",
    "families",
    "family_of",
    "get_family",
    "parameter_groups",
    "register_family",
    "set_temperature",
    "share_cells",
]
