"""Prepares networks for inference: eval mode, batch norms folded, algorithms chosen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dynaconv.conversion.copying import copied
from dynaconv.conversion.eligibility import find_shared, first_lazy
from dynaconv.conversion.example import eval_mode, examples, run_first, temporary_hooks
from dynaconv.conversion.select import is_convolution
from dynaconv.conversion.swap import all_names, replace_module
from dynaconv.deployment.backends import Precision, get_backend
from dynaconv.deployment.norm_pairs import (
    ReaderRecorder,
    convolution_refusal,
    is_norm,
    norm_refusal,
    norm_remainder,
)
from dynaconv.errors import ConversionError
from dynaconv.families import DeployedLayer, DynamicLayer, family_of
from dynaconv.families.contract.affine import frozen_parameter, frozen_sum, multiply_rows
from dynaconv.families.contract.checks import check_module
from dynaconv.families.contract.norms import norm_affine
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.families.contract.static import replaced_method
from dynaconv.ops import cheapest, swap_channels


@dataclass(frozen=True, kw_only=True)
class DeploymentPlan:
    """The changes that `deploy` makes to a network. Printing it shows what is folded, what is not, and why.

    Attributes:
        folded: The convolution, static or dynamic, into which each batch norm is folded, by the norm's name.
        kept: Why each other batch norm is not folded, by its name.
        dynamic: Names of the dynamic layers that are replaced by their deployed form.
        undeployed: Why each other dynamic layer is not replaced, by its name.
        algorithms: The algorithm that each dynamic layer is set to, by its name; other layers keep theirs.
    """

    folded: Mapping[str, str]
    kept: Mapping[str, str]
    dynamic: tuple[str, ...]
    undeployed: Mapping[str, str]
    algorithms: Mapping[str, str]

    def apply(self, model: nn.Module, *, inplace: bool = False) -> nn.Module:
        """Apply the plan to the model that it was made for, and return the network for inference.

        Args:
            model: The model.
            inplace: Change ``model`` itself instead of a copy.

        Raises:
            ConversionError: The model lacks one of the layers, cannot be copied, or is itself a dynamic layer and
                ``inplace`` is set.
        """
        names = [*self.folded, *self.folded.values(), *self.dynamic]
        modules = dict(model.named_modules(remove_duplicate=False))
        missing = next((name for name in names if name not in modules), None)
        if missing is not None:
            raise ConversionError(f"the plan was made for another model: this model has no module {missing!r}.")
        if inplace and "" in self.dynamic:
            raise ConversionError(
                "the model is itself a layer, which cannot be replaced in place; leave `inplace` out."
            )
        target = (model if inplace else copied(model)).eval().requires_grad_(False)
        target = _replace_by_deployed(target, [target.get_submodule(name) for name in self.dynamic])
        paths = all_names(target)
        for norm_name, conv_name in self.folded.items():
            norm = target.get_submodule(norm_name)
            _fold_affine(target.get_submodule(conv_name), *norm_affine(norm))
            rest = norm_remainder(norm)
            assert rest is not None
            replace_module(target, paths[norm], rest.eval())
        # Last, because an algorithm may precompute constants from the folded weights.
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
    """Plan the changes that `deploy` can make to a network. The network is run once, in eval mode, and not changed.

    A batch norm is folded if that run proves that it is the only reader of the output of one convolution.

    Args:
        model: Any network.
        input_size: ``(B, C, *sizes)``, or ``(C, *sizes)`` for a batch of one. If it is given, the algorithm of each
            dynamic layer is chosen for this size.
        example: An input, or a tuple of positional arguments, in place of ``input_size``.

    Raises:
        ConversionError: The model cannot be run, has parameters without values (device ``meta``) or without a size, or
            both inputs are given.
        TypeError: ``model`` is not a module.
    """
    _check(model, input_size, example)
    modules = dict(model.named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, DynamicOperator)}
    inner = {id(part) for layer in layers.values() for part in layer.modules() if part is not layer}
    undeployed = {name: reason for name, layer in layers.items() if (reason := _deployment_refusal(layer)) is not None}
    dynamic: dict[str, Any] = {name: layer for name, layer in layers.items() if name not in undeployed}
    modules = {name: module for name, module in modules.items() if id(module) not in inner}
    norms = {name: module for name, module in modules.items() if is_norm(module)}
    convolutions = {name: module for name, module in modules.items() if is_convolution(module)}
    decided = input_size is not None or example is not None
    shapes: dict[str, tuple[int, ...]] = {}
    forms: dict[str, Any] = {}
    folded, kept = {}, {}
    if norms or (decided and dynamic):
        with eval_mode(model):
            recorder, output, shapes = _run_recorded(
                model, convolutions, norms, dynamic, examples(model, input_size, example)
            )
            shared = find_shared(model, convolutions)
            memo: dict[int, Any] = {}
            forms = {name: layer.deployed_among(memo) for name, layer in dynamic.items()}
            for name, norm in norms.items():
                reason = norm_refusal(norm) or recorder.refusal(name)
                conv = recorder.sources.get(name, "")
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
    precision: Precision = "float32",
) -> nn.Module:
    """Prepare a network for inference: it computes the same function in eval mode with fewer operations.

    Every dynamic layer is replaced by its deployed form (`DynamicLayer.deployed`): context norms and latent norms are
    folded into its branch, and values that depend on parameters alone are precomputed. A batch norm that is the only
    reader of one convolution, static or dynamic, is folded into it. No parameter requires gradients. The result is an
    ordinary module with a state dict, which can be copied, pickled, compiled and exported.

    With ``input_size`` or ``example``, every dynamic layer whose algorithm is ``auto`` is set to the one that the cost
    model finds fastest for that input in PyTorch. Backends and exports choose their own.

    Args:
        model: A trained network; its running statistics become part of the weights.
        input_size, example: As for `plan_deployment`, whose plan shows the changes.
        inplace: Change ``model`` itself instead of a copy.
        backend: ``torch``; ``native``, which runs supported layers by compiled kernels on the CPU (docs/native.md); or
            a name from `register_backend` or from another package's entry point ``dynaconv.backends``.
        precision: How the backend stores and multiplies weights; other values than ``float32`` are for
            ``backend="native"``.

    Returns:
        The network for inference; ``model`` itself if ``inplace``, unless ``native`` replaces the whole model.

    Raises:
        ConversionError: As for `plan_deployment`, the model cannot be copied, or the backend or precision is unknown,
            or the backend lacks the precision; the model is then unchanged.
        TypeError: ``model`` is not a module.
    """
    run_backend = get_backend(backend, precision)
    plan = plan_deployment(model, input_size, example=example)
    if backend != "torch":
        plan = replace(plan, algorithms={})
    return run_backend(plan.apply(model, inplace=inplace))


def deployed_layers(model: nn.Module) -> nn.Module:
    """Return a copy of a network whose dynamic layers have their deployed form, with the algorithm set by the user.

    Exports read this form. Nothing is folded across layers. A network without dynamic layers is returned itself.
    """
    if not any(isinstance(module, DynamicOperator) for module in model.modules()):
        return model
    target = copied(model)
    layers = [module for module in target.modules() if isinstance(module, DynamicOperator)]
    target = _replace_by_deployed(target, [layer for layer in layers if _deployment_refusal(layer) is None])
    for module in target.modules():
        if isinstance(module, DeployedLayer):
            module.algorithm = module.asked
    return target


def _replace_by_deployed(model: nn.Module, layers: Sequence[Any]) -> nn.Module:
    """Replace layers by their deployed forms in place; return the model, or the form if the model is the layer."""
    paths, memo = all_names(model), {}  # type: ignore[var-annotated]
    for layer in layers:
        form: nn.Module = layer.deployed_among(memo)
        if paths[layer] == [""]:
            return form
        replace_module(model, paths[layer], form)
    return model


def _check(model: nn.Module, input_size: Sequence[int] | None, example: Any) -> None:
    check_module(model)
    if input_size is not None and example is not None:
        raise ConversionError("`input_size` and `example` both define the input; pass only one of them.")
    lazy = first_lazy(model)
    if lazy is not None:
        raise ConversionError(f"{lazy!r} has no size yet; run the model once before you deploy it.")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise ConversionError(f"{name!r} is on the meta device and has no values; load the weights first.")


def _run_recorded(
    model: nn.Module,
    convolutions: Mapping[str, nn.Module],
    norms: Mapping[str, nn.Module],
    dynamic: Mapping[str, nn.Module],
    inputs: Iterator[tuple[Any, ...]],
) -> tuple[ReaderRecorder, Any, dict[str, tuple[int, ...]]]:
    """Run the model on the first input that it accepts; return the recorder, the output and input shapes by layer."""

    def run(args: tuple[Any, ...]) -> tuple[ReaderRecorder, Any, dict[str, tuple[int, ...]]]:
        recorder = ReaderRecorder(convolutions, norms)
        shapes: dict[str, tuple[int, ...]] = {}
        hooks = (layer.register_forward_pre_hook(_shape_hook(shapes, name)) for name, layer in dynamic.items())
        with temporary_hooks(hooks), recorder.hooked():
            return recorder, model(*args), shapes

    remedy = "Pass input_size=(B, C, H, W), or example= with an input or a tuple of positional arguments."
    return run_first(inputs, run, "the model must run once to find what can be folded", remedy)


def _shape_hook(shapes: dict[str, tuple[int, ...]], name: str) -> Any:
    def hook(module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            shapes[name] = tuple(args[0].shape)

    return hook


def _refusal(conv: nn.Module, norm: nn.Module, shared: str | None, form: DeployedLayer | None) -> str | None:
    """Return why a norm cannot be folded into a convolution, whose deployed form is ``form`` if it is dynamic."""
    if shared is not None:
        return f"the convolution's weight is shared with {shared!r}"
    reason = convolution_refusal(conv)
    if reason is not None:
        return f"the convolution does not support folding: {reason}"
    if form is not None:
        try:
            form.absorb_affine(*norm_affine(norm))
        except ValueError as error:
            return str(error).rstrip(".")
    return None


def _deployment_refusal(layer: DynamicOperator) -> str | None:
    """Return why a dynamic layer has no deployed form; None if it has one."""
    if isinstance(layer, DeployedLayer):
        return None
    kind = type(layer)
    if not isinstance(layer, DynamicLayer) or type(layer).deployed is DynamicLayer.deployed:
        return f"{kind.__name__} has no deployed form"
    if family_of(layer) is None:
        return f"its class {kind.__name__} belongs to no family and may compute something else"
    return replaced_method(layer)


def _fold_affine(conv: nn.Module, scale: Tensor, shift: Tensor) -> None:
    if isinstance(conv, DeployedLayer):
        conv.absorb_affine(scale, shift)
        return
    assert isinstance(conv, _ConvNd)
    if conv.transposed:
        dims = len(conv.kernel_size)
        rows = multiply_rows(swap_channels(conv.weight, conv.groups, dims), scale, axis=0)
        conv.weight = frozen_parameter(swap_channels(rows, conv.groups, dims))
    else:
        conv.weight = multiply_rows(conv.weight, scale, axis=0)
    conv.bias = frozen_sum(None if conv.bias is None else multiply_rows(conv.bias, scale), shift, conv.weight)


def _algorithms(forms: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the cheapest algorithm of each deployed layer that ran and whose algorithm is ``auto``."""
    return {
        name: cheapest(form.algorithm_costs(shapes[name]))
        for name, form in forms.items()
        if name in shapes and form.algorithm == "auto"
    }
