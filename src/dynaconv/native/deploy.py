"""The last step of `dynaconv.deploy` with ``backend="native"``."""

from torch import nn

from dynaconv.deployment.backends import Precision, check_precision
from dynaconv.families.contract.checks import check_module
from dynaconv.native import library
from dynaconv.native.bf16 import round_kernels
from dynaconv.native.replace import replace


def deploy_native(model: nn.Module, *, precision: Precision = "float32") -> nn.Module:
    """Let the compiled kernels run all supported parts of a deployed network; changes the network in place.

    If the package has no prebuilt kernels, the first call compiles them, which takes about ten seconds. If that is not
    possible, the first call warns with the reason, and the network is returned unchanged. If the processor has no
    instructions for products in int8, the first call with ``precision="int8"`` warns, and the network is in float32.

    Args:
        model: A deployed network, in eval mode.
        precision: See `dynaconv.deploy`.

    Returns:
        The network; a new module only if ``model`` itself becomes one native program.

    Raises:
        ConversionError: The precision is unknown.
        NativeError: The environment variable DYNACONV_ISA names an unknown or unsupported instruction set.
    """
    check_module(model)
    check_precision(precision)
    if precision == "bf16":
        # Also the layers that stay in torch: the function does not depend on what this machine can run.
        round_kernels(model)
    if not library.ready():
        return model
    if precision == "int8" and not library.int8_is_fast():
        precision = "float32"
    return replace(model, precision)[0]
