"""Checks whether a dynamic layer can replace a static module, and transfer of its hooks and attributes."""

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from dynaconv.errors import with_article
from dynaconv.ops import same_padding

STATIC_CLASSES: dict[tuple[int, bool], type[nn.Module]] = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}
"""Torch's convolutions by number of spatial axes and whether they are transposed."""
_METHODS = ("__call__", "_call_impl", "_wrapped_call_impl", "forward", "_conv_forward")
"""Methods that determine the function of a module."""
_PLAIN = nn.Conv2d(1, 1, 1, device="meta")
_HOOKS = [name for name in vars(_PLAIN) if "hook" in name]
_USER_ATTRIBUTES = "_attributes_from_outside"


def replaced_method(module: nn.Module) -> str | None:
    """Return why a module may not compute the function of its class, a method set on the instance; else None."""
    name = next((name for name in _METHODS if name in vars(module)), None)
    return None if name is None else f"its {name} was replaced on the instance"


def overridden_method(module: nn.Module, plain: type[nn.Module]) -> str | None:
    """Return why a module may not compute the function of ``plain``, its class or base class in torch; else None."""
    kind = type(module)
    if any(getattr(kind, name, None) is not getattr(plain, name, None) for name in _METHODS):
        return f"its class {kind.__name__} computes something else than {plain.__name__}"
    return replaced_method(module)


def weight_refusal(module: nn.Module) -> str | None:
    """Return why a module's weight or bias cannot become a parameter of another module; else None."""
    # Some families compute `weight` from their own parameters, by a property.
    stored = "weight" in module._parameters or isinstance(getattr(type(module), "weight", None), property)
    if parametrize.is_parametrized(module) or not stored:
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


def static_class(module: nn.Module) -> type[nn.Module] | None:
    """Return the class of torch's convolutions that a module is an instance of; None for other modules."""
    return next((kind for kind in STATIC_CLASSES.values() if isinstance(module, kind)), None)


def static_refusal(module: nn.Module) -> str | None:
    """Return why a dynamic layer made from a convolution or linear layer would compute another function; else None."""
    reason = overridden_method(module, static_class(module) or nn.Linear)
    reason = reason or weight_refusal(module)
    if reason is None and isinstance(module, _ConvNd) and module.padding_mode != "zeros":
        # Such a convolution pads as computed by its constructor, even if `padding` was changed later.
        pairs = same_padding(module.kernel_size, module.dilation) if module.padding == "same" else []
        if not isinstance(module.padding, str):
            pairs = [(size, size) for size in module.padding]
        expected = [side for pair in reversed(pairs) for side in pair] or [0, 0] * len(module.kernel_size)
        if list(module._reversed_padding_repeated_twice) != expected:
            return f"its padding, {module.padding!r}, was changed after construction"
    return reason


def check_static(module: nn.Module, plain: type[nn.Module], method: str) -> None:
    """Check that ``method`` can make a dynamic layer of ``module``.

    Raises:
        TypeError: ``module`` is not a ``plain``, or computes another function.
    """
    kind = type(module).__name__
    if not isinstance(module, plain):
        raise TypeError(f"{method} takes a torch.nn.{plain.__name__}; got {kind}.")
    reason = static_refusal(module)
    if reason is not None:
        raise TypeError(f"{method} cannot keep the function of this {kind}: {reason}.")


def copy_hooks_and_attributes(old: nn.Module, new: nn.Module) -> None:
    """Copy to ``new`` the hooks of ``old`` and the attributes that other code set on ``old``."""
    for name in _HOOKS:
        hooks = getattr(old, name, None)
        if isinstance(hooks, dict):
            getattr(new, name).update(hooks)
        elif hooks is not None:
            setattr(new, name, hooks)
    user_attributes = vars(old).get(_USER_ATTRIBUTES)
    if user_attributes is None:
        of_torch = isinstance(old, _ConvNd | nn.Linear)
        user_attributes = [name for name in vars(old) if of_torch and name not in vars(_PLAIN)]
    carried = [name for name in user_attributes if not hasattr(new, name)]
    for name in carried:
        setattr(new, name, getattr(old, name))
    if carried and not isinstance(new, _ConvNd | nn.Linear):
        setattr(new, _USER_ATTRIBUTES, carried)
