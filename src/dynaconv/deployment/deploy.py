"""A network as it is shipped: in eval mode, fixed norms folded away, algorithms decided."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from dynaconv.conversion.copying import copied
from dynaconv.conversion.eligibility import find_shared, first_lazy
from dynaconv.conversion.example import examples
from dynaconv.conversion.select import is_convolution
from dynaconv.conversion.swap import all_names, put
from dynaconv.deployment.backends import get_backend
from dynaconv.deployment.norm_pairs import (
    Watch,
    after_norm,
    foldable_convolution,
    foldable_norm,
    is_norm,
)
from dynaconv.errors import ConversionError
from dynaconv.families import DeployedLayer, DynamicLayer, family_of
from dynaconv.families.contract.affine import multiply_rows, plus
from dynaconv.families.contract.norms import norm_affine
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.families.contract.static import replaced_method
from dynaconv.ops import cheapest


@dataclass(frozen=True, kw_only=True)
class DeploymentPlan:
    """What `deploy` does to a network. Printing it shows what is folded, what is not, and why.

    Attributes:
        folded: The convolution, static or dynamic, that takes in each batch norm, by the norm's name.
        kept: Why each of the other batch norms stays, by its name.
        dynamic: Names of the dynamic layers that get their deployed form.
        undeployed: Why each other dynamic layer stays as it is, by its name.
        algorithms: The algorithm that each dynamic layer is set to; those not here stay as they are.
    """

    folded: Mapping[str, str]
    kept: Mapping[str, str]
    dynamic: tuple[str, ...]
    undeployed: Mapping[str, str]
    algorithms: Mapping[str, str]

    def apply(self, model: nn.Module, *, inplace: bool = False) -> nn.Module:
        """Carry the plan out on the model it was made for.

        Args:
            inplace: Change ``model`` itself instead of a copy.

        Raises:
            ConversionError: The model has not these layers, or cannot be copied.
        """
        names = [*self.folded, *self.folded.values(), *self.dynamic]
        modules = dict(model.named_modules(remove_duplicate=False))
        missing = next((name for name in names if name not in modules), None)
        if missing is not None:
            raise ConversionError(f"the plan is for another model: this one has no module {missing!r}.")
        if inplace and "" in self.dynamic:
            raise ConversionError(
                "the model is itself a layer, which cannot be replaced in place; leave `inplace` out."
            )
        target = (model if inplace else copied(model)).eval().requires_grad_(False)
        target = _put_deployed(target, [target.get_submodule(name) for name in self.dynamic])
        paths = all_names(target)
        for norm_name, conv_name in self.folded.items():
            norm = target.get_submodule(norm_name)
            _absorb(target.get_submodule(conv_name), *norm_affine(norm))
            rest = after_norm(norm)
            assert rest is not None
            put(target, paths[norm], rest.eval())
        # Last, because an algorithm may work out constants from what was folded.
        for name, algorithm in self.algorithms.items():
            target.get_submodule(name).algorithm = algorithm  # type: ignore[assignment]
        return target

    def __str__(self) -> str:
        width = max(map(len, (*self.folded, *self.kept, *self.dynamic, *self.undeployed)), default=0)
        lines = [f"{norm:{width}}  folded into {conv}" for norm, conv in self.folded.items()]
        lines += [f"{norm:{width}}  stays: {reason}" for norm, reason in self.kept.items()]
        lines += [f"{name:{width}}  {self.algorithms.get(name, 'algorithm as it is')}" for name in self.dynamic]
        lines += [f"{name:{width}}  stays: {reason}" for name, reason in self.undeployed.items()]
        lines.append(
            f"{len(self.folded)} of {len(self.folded) + len(self.kept)} batch norms are folded; "
            f"{len(self.algorithms)} of {len(self.dynamic) + len(self.undeployed)} dynamic layers get "
            f"an algorithm."
        )
        return "\n".join(lines)


def plan_deployment(
    model: nn.Module, input_size: Sequence[int] | None = None, *, example: Any = None
) -> DeploymentPlan:
    """Find out what `deploy` can do to a network. It is run once, in eval mode, and nothing is changed.

    A batch norm is folded where that run proves that it reads the output of one convolution and nothing else does.

    Args:
        model: Any network.
        input_size: ``(B, C, H, W)``, or ``(C, H, W)`` for a batch of one; then each dynamic layer's algorithm is
            decided for it.
        example: In place of ``input_size`` an input, or a tuple of the positional arguments.

    Raises:
        ConversionError: The model cannot be run, has no numbers in it (device ``meta``), or both inputs are given.
        TypeError: ``model`` is no module.
    """
    _check(model, input_size, example)
    modules = dict(model.named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, DynamicOperator)}
    inner = {id(part) for layer in layers.values() for part in layer.modules() if part is not layer}
    undeployed = {name: reason for name, layer in layers.items() if (reason := _undeployable(layer)) is not None}
    dynamic: dict[str, Any] = {name: layer for name, layer in layers.items() if name not in undeployed}
    modules = {name: module for name, module in modules.items() if id(module) not in inner}
    norms = {name: module for name, module in modules.items() if is_norm(module)}
    convolutions = {name: module for name, module in modules.items() if is_convolution(module)}
    decided = input_size is not None or example is not None
    shapes: dict[str, tuple[int, ...]] = {}
    forms: dict[str, Any] = {}
    folded, kept = {}, {}
    if norms or (decided and dynamic):
        with _evaluating(model):
            watch, output, shapes = _watch(model, convolutions, norms, dynamic, examples(model, input_size, example))
            shared = find_shared(model, convolutions)
            forms = {name: layer.deployed() for name, layer in dynamic.items()}
            for name, norm in norms.items():
                reason = foldable_norm(norm) or watch.refusal(name)
                conv = watch.sources.get(name, "")
                if reason is None:
                    reason = undeployed.get(conv) or _refusal(
                        convolutions[conv], norm, shared.get(conv), forms.get(conv)
                    )
                if reason is None:
                    folded[name] = conv
                else:
                    kept[name] = reason
            del output
    return DeploymentPlan(
        folded=folded,
        kept=kept,
        dynamic=tuple(dynamic),
        undeployed=undeployed,
        algorithms=_algorithms(forms, shapes) if decided else {},
    )


def deploy(
    model: nn.Module,
    input_size: Sequence[int] | None = None,
    *,
    example: Any = None,
    inplace: bool = False,
    backend: str = "torch",
) -> nn.Module:
    """Make a network ready for inference: the same function in eval mode, with less to compute.

    Every dynamic layer gets its deployed form (`DynamicLayer.deployed`): norms of its context and latent norms are part
    of its branch, and what a forward pass would compute from parameters alone is computed once. Batch norms that alone
    read one convolution are folded into it, static or dynamic. Nothing requires gradients any more. The result is an
    ordinary module with a state dict, to be copied, pickled, compiled or exported.

    With ``input_size`` (or ``example``) every dynamic layer whose algorithm is ``auto`` is set to what is fastest for
    that input in PyTorch. Backends and exports choose for themselves.

    Args:
        model: A trained network; its running statistics become part of the weights.
        input_size, example: As for `plan_deployment`, whose plan shows what happens.
        inplace: Change ``model`` itself instead of a copy.
        backend: ``torch``, or ``native``, which lets compiled kernels run what they can on the CPU (docs/native.md); or
            a name that `register_backend` or another package's entry point ``dynaconv.backends`` has made known.

    Returns:
        The network for inference; ``model`` itself when ``inplace``, unless it is a single block made native.

    Raises:
        ConversionError: As for `plan_deployment`, the model cannot be copied, or the backend is unknown; the model is
            as it was.
        TypeError: ``model`` is no module.
    """
    run_by = get_backend(backend)
    plan = plan_deployment(model, input_size, example=example)
    if backend != "torch":
        plan = replace(plan, algorithms={})
    return run_by(plan.apply(model, inplace=inplace))


def deployed_layers(model: nn.Module) -> nn.Module:
    """A copy of a network whose dynamic layers have their deployed form, each set to the algorithm it was asked for.

    For what reads that form: nothing is folded across layers. The model itself where it has no such layer.
    """
    if not any(isinstance(module, DynamicOperator) for module in model.modules()):
        return model
    target = copied(model)
    found = [module for module in target.modules() if isinstance(module, DynamicOperator)]
    target = _put_deployed(target, [layer for layer in found if _undeployable(layer) is None])
    for module in target.modules():
        if isinstance(module, DeployedLayer):
            module.algorithm = module.asked
    return target


def _put_deployed(model: nn.Module, layers: Sequence[Any]) -> nn.Module:
    """Replace layers of a model by their deployed forms, in place; the model to use is returned."""
    paths = all_names(model)
    for layer in layers:
        form: nn.Module = layer.deployed()
        if paths[layer] == [""]:
            return form
        put(model, paths[layer], form)
    return model


def _check(model: nn.Module, input_size: Sequence[int] | None, example: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` is a torch.nn.Module; got {type(model).__name__}.")
    if input_size is not None and example is not None:
        raise ConversionError("`input_size` and `example` both say what the input is; give one of them.")
    lazy = first_lazy(model)
    if lazy is not None:
        raise ConversionError(f"{lazy!r} has no size yet; run the model once before it is deployed.")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise ConversionError(f"{name!r} is on the device meta and holds no numbers; load the weights first.")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every module is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _watch(
    model: nn.Module,
    convolutions: Mapping[str, nn.Module],
    norms: Mapping[str, nn.Module],
    dynamic: Mapping[str, nn.Module],
    inputs: Iterator[tuple[Any, ...]],
) -> tuple[Watch, Any, dict[str, tuple[int, ...]]]:
    """Run the model on the first input it accepts: what was watched, the output, and the inputs' shapes by layer."""
    failures = []
    for args in inputs:
        watch = Watch(convolutions, norms)
        shapes: dict[str, tuple[int, ...]] = {}
        handles = [layer.register_forward_pre_hook(_noting(shapes, name)) for name, layer in dynamic.items()]
        try:
            with watch.hooked():
                return watch, model(*args), shapes
        # Whatever a network raises on an input it is not made for.
        except Exception as error:
            what = tuple(args[0].shape) if len(args) == 1 and isinstance(args[0], Tensor) else "the example"
            failures.append(f"on {what} it raises {type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}")
        finally:
            for handle in handles:
                handle.remove()
    raise ConversionError(
        f"the model has to run once to find what can be folded, and {failures[0]}. Give input_size=(B, C, H, W), or "
        f"example= with an input or a tuple of arguments."
    )


def _noting(shapes: dict[str, tuple[int, ...]], name: str) -> Any:
    def hook(module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            shapes[name] = tuple(args[0].shape)

    return hook


def _refusal(conv: nn.Module, norm: nn.Module, shared: str | None, form: DeployedLayer | None) -> str | None:
    """Why a convolution, whose deployed form is ``form`` where it is dynamic, cannot take in the norm that reads it."""
    if shared is not None:
        return f"the convolution's weight is shared with {shared!r}"
    reason = foldable_convolution(conv)
    if reason is not None:
        return f"the convolution cannot take it in: {reason}"
    if form is not None:
        try:
            form.absorb_affine(*norm_affine(norm))
        except ValueError as error:
            return str(error).rstrip(".")
    return None


def _undeployable(layer: DynamicOperator) -> str | None:
    """Why a dynamic layer has no deployed form; None where it has one."""
    if isinstance(layer, DeployedLayer):
        return None
    kind = type(layer)
    if not isinstance(layer, DynamicLayer) or type(layer).deployed is DynamicLayer.deployed:
        return f"{kind.__name__} has no deployed form"
    if family_of(layer) is None:
        return f"its class {kind.__name__} is no layer of a family, and may compute something else"
    return replaced_method(layer)


def _absorb(conv: nn.Module, scale: Tensor, shift: Tensor) -> None:
    if isinstance(conv, DeployedLayer):
        conv.absorb_affine(scale, shift)
        return
    assert isinstance(conv, nn.Conv2d)
    conv.weight = multiply_rows(conv.weight, scale, axis=0)
    conv.bias = plus(None if conv.bias is None else multiply_rows(conv.bias, scale), shift, conv.weight)


def _algorithms(forms: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The cheapest algorithm of each deployed layer that ran and that nobody set to one."""
    return {
        name: cheapest(form.algorithm_costs(shapes[name]))
        for name, form in forms.items()
        if name in shapes and form.algorithm == "auto"
    }
