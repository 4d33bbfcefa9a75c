"""The last step of `dynaconv.deploy` with ``backend="native"``."""

from torch import nn

from dynaconv.native import library
from dynaconv.native.replace import replace


def deploy_native(model: nn.Module) -> nn.Module:
    """Let the compiled kernels run what they can of a network that `deploy` has made; it is changed in place.

    The first call compiles them where the package does not carry them, which takes some ten seconds. Where that is not
    possible a warning says once why, and the network is returned as it is.

    Args:
        model: A deployed network, in eval mode.

    Returns:
        The network; a new module only where ``model`` is itself a convolution or a block.

    Raises:
        NativeError: The environment variable DYNACONV_ISA names an instruction set that there is not.
    """
    return replace(model)[0] if library.ready() else model
