"""Dynamic layers, one folder per family. `kernel(x)` of a layer returns the kernel that it applies to each sample."""

from dynaconv.families.condconv.family import CONDCONV
from dynaconv.families.condconv.layer import CondConv2d
from dynaconv.families.contract.base import DynamicConv2d, DynamicLayer
from dynaconv.families.contract.deployed import DeployedLayer
from dynaconv.families.contract.mixture import KernelMixture2d, MixtureCoefficients
from dynaconv.families.contract.parameters import parameter_groups
from dynaconv.families.contract.temperature import set_temperature
from dynaconv.families.dcd.config import DCDConfig
from dynaconv.families.dcd.core import DCDCoefficients
from dynaconv.families.dcd.family import DCD
from dynaconv.families.dcd.layer import DCDConv2d, DCDLinear
from dynaconv.families.dyconv.family import DYCONV
from dynaconv.families.dyconv.layer import DYConv2d
from dynaconv.families.family import Coefficient, Family, families, family_of, get_family, register_family
from dynaconv.families.odconv import ODConvCoefficients
from dynaconv.families.odconv.family import ODCONV
from dynaconv.families.odconv.layer import ODConv2d
from dynaconv.families.se.family import SE
from dynaconv.families.se.layer import SECoefficients, SEConv2d

for _family in (CONDCONV, DCD, DYCONV, ODCONV, SE):
    register_family(_family)

__all__ = [
    "Coefficient",
    "CondConv2d",
    "DCDCoefficients",
    "DCDConfig",
    "DCDConv2d",
    "DCDLinear",
    "DYConv2d",
    "DeployedLayer",
    "DynamicConv2d",
    "DynamicLayer",
    "Family",
    "KernelMixture2d",
    "MixtureCoefficients",
    "ODConv2d",
    "ODConvCoefficients",
    "SECoefficients",
    "SEConv2d",
    "families",
    "family_of",
    "get_family",
    "parameter_groups",
    "register_family",
    "set_temperature",
]
