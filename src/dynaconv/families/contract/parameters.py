"""Parameter groups for an optimiser, by weight decay and by membership in a dynamic branch."""

import math
from numbers import Real
from typing import Any

from torch import nn

from dynaconv.errors import received
from dynaconv.families.contract.checks import check_module
from dynaconv.families.contract.layer import DynamicLayer
from dynaconv.families.contract.shared import SharedContext


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    *,
    branch_lr: float | None = None,
    branch_weight_decay: float | None = None,
    decay_norm_and_bias: bool = False,
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a network for any torch optimiser.

    A branch holds the parameters from the context on to the coefficients: ``layer.branch`` of every dynamic layer, and
    every `SharedContext`.
    The parameters to which coefficients are applied, such as W0, P and Q of DCD or the kernels of a mixture, are not
    part of it.

    Args:
        model: Any network. It can exempt more parameters from weight decay by name, with timm's ``no_weight_decay()``.
        lr: Learning rate.
        weight_decay: Weight decay of parameters with at least two dimensions.
        branch_lr: Learning rate of the branches; by default ``lr``.
        branch_weight_decay: Weight decay of the branches; by default ``weight_decay``.
        decay_norm_and_bias: Whether weight decay applies to all parameters, also to norms and biases.

    Returns:
        Groups with the keys ``params``, ``lr``, ``weight_decay`` and ``name``. No group is empty, and each parameter is
        in one group.

    Raises:
        ValueError: A rate or decay is negative or not finite, or a value for branches is given and the network has no
            branch.
        TypeError: ``model`` is not a module.

    Example:
        >>> torch.optim.SGD(dynaconv.parameter_groups(net, lr=0.1, weight_decay=1e-4, branch_lr=0.05), momentum=0.9)
    """
    check_module(model)
    given = {"lr": lr, "weight_decay": weight_decay, "branch_lr": branch_lr, "branch_weight_decay": branch_weight_decay}
    for name, value in given.items():
        optional = name.startswith("branch") and value is None
        if not optional and not (isinstance(value, Real) and 0 <= value < math.inf):
            raise ValueError(f"{name} must be a finite number of at least 0; got {received(value)}.")
    named = getattr(model, "no_weight_decay", None)
    exempt: set[str] = set(named()) if callable(named) else set()
    branches = {
        id(parameter)
        for layer in model.modules()
        if isinstance(layer, DynamicLayer | SharedContext)
        for parameter in (layer.get_submodule("branch") if isinstance(layer, DynamicLayer) else layer).parameters()
    }
    if not branches and (branch_lr is not None or branch_weight_decay is not None):
        raise ValueError("the network has no dynamic layer; leave out branch_lr and branch_weight_decay.")
    branch_lr = lr if branch_lr is None else branch_lr
    branch_weight_decay = weight_decay if branch_weight_decay is None else branch_weight_decay
    groups: list[dict[str, Any]] = [
        {"name": "decayed", "params": [], "lr": lr, "weight_decay": weight_decay},
        {"name": "not_decayed", "params": [], "lr": lr, "weight_decay": 0.0},
        {"name": "branch_decayed", "params": [], "lr": branch_lr, "weight_decay": branch_weight_decay},
        {"name": "branch_not_decayed", "params": [], "lr": branch_lr, "weight_decay": 0.0},
    ]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = decay_norm_and_bias or (parameter.dim() >= 2 and name not in exempt)
            groups[2 * (id(parameter) in branches) + (not decays)]["params"].append(parameter)
    return [group for group in groups if group["params"]]
