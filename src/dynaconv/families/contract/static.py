"""What a dynamic layer takes over from the static module in whose place it stands, and when it cannot."""

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from dynaconv.errors import with_article

_METHODS = ("__call__", "_call_impl", "_wrapped_call_impl", "forward", "_conv_forward")
"""Methods that decide what a module computes."""
_PLAIN = nn.Conv2d(1, 1, 1, device="meta")
_HOOKS = [name for name in vars(_PLAIN) if "hook" in name]
_OUTSIDE = "_attributes_from_outside"


def replaced_method(module: nn.Module) -> str | None:
    """Why a module may compute something else than its class does: a method set on the instance; else None."""
    name = next((name for name in _METHODS if name in vars(module)), None)
    return None if name is None else f"its {name} was replaced on the instance"


def other_function(module: nn.Module, plain: type[nn.Module]) -> str | None:
    """Why a module may compute something else than ``plain``, a class of torch that it is of; else None."""
    kind = type(module)
    if any(getattr(kind, name, None) is not getattr(plain, name, None) for name in _METHODS):
        return f"its class {kind.__name__} computes something else than {plain.__name__}"
    return replaced_method(module)


def weight_refusal(module: nn.Module) -> str | None:
    """Why a module's weight, or bias, cannot be taken over by a parameter of another module; else None."""
    if parametrize.is_parametrized(module) or "weight" not in module._parameters:
        return "its weight is computed from others (a parametrisation, a weight norm or a pruning mask)"
    for name in ("weight", "bias"):
        parameter = module._parameters.get(name)
        if parameter is not None and is_lazy(parameter):
            return f"its {name} has no size yet; run the network once first"
        if parameter is not None and type(parameter) is not nn.Parameter:
            return f"its {name} is {with_article(type(parameter).__name__)}, not a plain parameter"
        if parameter is not None and not parameter.is_floating_point():
            return f"its {name} is of type {str(parameter.dtype).removeprefix('torch.')}, and kernels need real numbers"
    return None


def static_refusal(module: nn.Conv2d | nn.Linear) -> str | None:
    """Why a dynamic layer made from a static module would not compute the same; else None."""
    reason = other_function(module, nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear)
    reason = reason or weight_refusal(module)
    if reason is None and isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        # Such a convolution pads by what its constructor worked out, whatever `padding` has become since.
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        pairs = [(r // 2, r - r // 2) for r in reach] if module.padding == "same" else []
        if not isinstance(module.padding, str):
            pairs = [(size, size) for size in module.padding]
        expected = [side for pair in reversed(pairs) for side in pair] or [0, 0, 0, 0]
        if list(module._reversed_padding_repeated_twice) != expected:
            return f"its padding, {module.padding!r}, is not the one that it was built with"
    return reason


def check_static(module: nn.Module, plain: type[nn.Conv2d] | type[nn.Linear], method: str) -> None:
    """Refuse what ``method`` cannot make a dynamic layer of.

    Raises:
        TypeError: ``module`` is no ``plain``, or computes something else.
    """
    kind = type(module).__name__
    if not isinstance(module, plain):
        raise TypeError(f"{method} takes a torch.nn.{plain.__name__}; got {kind}.")
    reason = static_refusal(module)
    if reason is not None:
        raise TypeError(f"{method} cannot keep the function of this {kind}: {reason}.")


def carry_attachments(old: nn.Module, new: nn.Module) -> None:
    """Give ``new`` the hooks of ``old``, and the attributes that were set on it from outside."""
    for name in _HOOKS:
        theirs = getattr(old, name, None)
        if isinstance(theirs, dict):
            getattr(new, name).update(theirs)
        elif theirs is not None:
            setattr(new, name, theirs)
    outside = vars(old).get(_OUTSIDE)
    if outside is None:
        of_torch = isinstance(old, nn.Conv2d | nn.Linear)
        outside = [name for name in vars(old) if of_torch and name not in vars(_PLAIN)]
    carried = [name for name in outside if not hasattr(new, name)]
    for name in carried:
        setattr(new, name, getattr(old, name))
    if carried and not isinstance(new, nn.Conv2d | nn.Linear):
        setattr(new, _OUTSIDE, carried)
