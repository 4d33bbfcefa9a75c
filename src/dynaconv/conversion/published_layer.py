"""Builds single layers of published networks from their weights."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dynaconv.errors import CheckpointError
from dynaconv.families import DynamicLayer, families, get_family


def published_layer(family: str, state: Mapping[str, Tensor], **metadata: Any) -> DynamicLayer:
    """Return the layer of a published network that has the given weights and computes the published function.

    The sizes of the layer follow from its weights; stride, padding and dilation do not.

    Args:
        family: Name of the family: dcd, odconv, fdconv or kernel_warehouse.
        state: State dict of the layer under its published keys, such as ``fc_phi.weight`` or ``attention.fc.weight``.
        metadata: Arguments of the published layer: ``stride``, ``padding``, ``dilation`` and ``padding_mode`` of the
            convolution, each as of `torch.nn.Conv2d` if left out, ``temperature`` of ODConv and KernelWarehouse, and
            the further arguments of FDConv, such as ``fbm_cfg``. Arguments that the weights show, such as
            ``in_channels``, can be given too and are checked. The layers of KernelWarehouse share cells, so its state
            is that of a network: ``layers`` and ``manager`` are the arguments of the layers and of the warehouse
            manager, ``cells`` maps each layer to its ``warehouse``, ``norm`` is the class of the branch's norm, and
            ``layer`` is the name of the layer to return, by default the only one. Text is read as JSON, so that the
            metadata of a safetensors file can be passed; ``kind``, a description, is not used.

    Returns:
        The layer in train mode, with the dtype and device of the weights.

    Raises:
        ValueError: The family is unknown.
        CheckpointError: The family has no published layers, or a key, a shape or an argument does not fit.
        TypeError: ``state`` is not a mapping of tensors.
    """
    chosen = get_family(family)
    build = chosen.published_layer
    if build is None:
        known = ", ".join(other.name for other in families() if other.published_layer is not None)
        raise CheckpointError(
            f"the family {chosen.name!r} has no published layers to read; families that have some are {known}."
        )
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TypeError(f"`state` must map names to tensors; got {type(state).__name__}.")
    arguments = {name: _value(value) for name, value in metadata.items() if name != "kind"}
    try:
        return build(state, arguments)
    except KeyError as error:
        reason = f"there is none for the tensor {error} of {chosen.layer.__name__}"
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
    raise CheckpointError(f"these are not the weights of a published {chosen.name} layer: {reason}.")


def _value(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except json.JSONDecodeError:
        return given
