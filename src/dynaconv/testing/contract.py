"""The contract of dynamic convolutions as a set of checks, each for one case."""

import copy
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.families import Family
from dynaconv.families.contract.convolution import CHANNELS_LAST, DynamicConvolution, conv_arguments
from dynaconv.families.contract.deployed import DeployedConv
from dynaconv.families.contract.operator import STATIC_KEYS
from dynaconv.families.contract.static import STATIC_CLASSES
from dynaconv.ops import over_pixels
from dynaconv.testing.cases import Case, cases
from dynaconv.testing.tolerance import assert_close, assert_close_to_scale

Check = Callable[[Case], None]
CHECKS: dict[str, Check] = {}
"""Checks by name. A check raises AssertionError, or an error of the layer, if the layer breaks the contract."""


def check_family(family: Family, options: Iterable[Mapping[str, Any]] = ({},)) -> None:
    """Run every check on the cases of a family.

    Args:
        family: Family to check; it need not be registered.
        options: Sets of options of its layer to test, as for `cases`.

    Raises:
        AssertionError: A layer breaks the contract; a note names the check and the case. Errors of the layer itself are
            passed on with the same note.
    """
    for case in cases(family, options):
        for name, function in CHECKS.items():
            try:
                function(case)
            except Exception as error:
                error.add_note(f"in the check {name} of {case}: {dict(case.arguments)}")
                raise


def check(function: Check) -> Check:
    """Add a check under its name."""
    CHECKS[function.__name__] = function
    return function


def value_and_gradients(output: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return ``output`` and the gradients of a fixed random weighting of it; zeros for inputs without influence."""
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    return (output, *torch.autograd.grad(output, inputs, upstream, materialize_grads=True))


def convolve_each(layer: DynamicConvolution, x: Tensor, *context: Tensor) -> Tensor:
    """Convolve each sample of the modulated ``x`` by torch's convolution with its own kernel and bias."""
    kernels, biases, x = layer.kernel(x, *context), layer.sample_bias(x, *context), layer.modulate(x)
    static: Any = STATIC_CLASSES[layer.dims, layer.transposed](**conv_arguments(layer), bias=False, dtype=x.dtype)
    outs = []
    for sample in range(x.shape[0]):
        out = torch.func.functional_call(static, {"weight": kernels[sample]}, (x[sample : sample + 1],))
        outs.append(out if biases is None else out + over_pixels(biases[sample], layer.dims))
    return torch.cat(outs)


@check
def forward_is_convolution_with_each_samples_kernel(case: Case) -> None:
    """Every algorithm gives the output and gradients of a convolution with each sample's kernel, in float64."""
    for algorithm in case.algorithms:
        layer, x = case.ready(algorithm=algorithm), case.images().requires_grad_()
        leaves = [x, *layer.parameters()]
        want = value_and_gradients(convolve_each(layer, x), leaves)
        assert_close(value_and_gradients(layer(x), leaves), want, message=algorithm)


@check
def kernel_exists_in_train_mode(case: Case) -> None:
    """In train mode, the layer applies the kernel that `kernel` returns, unless it uses batch statistics."""
    if case.uses_batch_statistics:
        return
    layer, x = case.ready().train(), case.images()
    # Computed before the forward pass, which may update running statistics.
    want = convolve_each(layer, x)
    assert_close(layer(x), want)


@check
def batch_equals_single_samples(case: Case) -> None:
    """In eval mode, a batch gives the same outputs as its samples one by one."""
    for algorithm in case.algorithms:
        layer, x = case.ready(algorithm=algorithm), case.images()
        each = torch.cat([layer(x[i : i + 1]) for i in range(3)])
        assert_close(layer(x), each, message=algorithm)


@check
def kernels_differ_between_inputs(case: Case) -> None:
    """Different inputs give different kernels; otherwise the layer would be static."""
    assert any(not torch.allclose(a, b) for a, b in pairwise(case.ready().kernel(case.images())))


@check
def shape_and_attributes_are_those_of_torch(case: Case) -> None:
    """Output shape and attributes are those of torch's convolution, whose state-dict keys are present."""
    layer, static = case.make(), case.static_twin()
    assert layer(case.images(dtype=torch.float32)).shape == static(case.images(dtype=torch.float32)).shape
    assert conv_arguments(layer) == conv_arguments(static)
    # A mixture stacks its kernels along a leading axis.
    assert layer.weight.shape[-layer.dims - 2 :] == static.weight.shape
    # A family without a parameter `weight` computes it from its own parameters.
    computed = {name for name in STATIC_KEYS if isinstance(getattr(type(layer), name, None), property)}
    assert set(static.state_dict()) - computed <= set(layer.state_dict())


@check
def every_parameter_gets_a_gradient(case: Case) -> None:
    """In train mode, every parameter has a gradient other than zero."""
    layer = case.ready().float().train()
    layer(case.images(dtype=torch.float32)).square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@check
def neutral_start_computes_the_static_convolution(case: Case) -> None:
    """`from_conv` keeps output, mode and `requires_grad` of the convolution, in train mode and in eval mode."""
    conv = case.static_twin(dtype=torch.float64)
    conv.weight.requires_grad_(False)
    for training in (True, False):
        static = conv.train(training)
        layer = case.neutral(static)
        assert layer.is_neutral
        assert layer.training == training
        assert not layer.stored_kernel.requires_grad
        x = case.images()
        assert_close(layer(x), static(x))


@check
def neutral_start_can_move(case: Case) -> None:
    """A neutral layer has a gradient other than zero beyond its static kernel and bias."""
    layer = case.neutral(case.static_twin())
    layer(case.images(dtype=torch.float32)).square().sum().backward()
    further = [p for p in layer.parameters() if p is not layer.stored_kernel and p is not layer.bias]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in further)


@check
def one_sample_of_few_pixels(case: Case) -> None:
    """A single small image works in train and eval mode, although one value has no variance."""
    for training in (True, False):
        layer = case.make().train(training)
        reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = layer.padding
        padded = isinstance(padding, str) or all(2 * p >= r - 1 for p, r in zip(padding, reach, strict=True))
        padded = padded and not layer.transposed
        # Reflection padding must be smaller than the image.
        small = padded and layer.padding_mode == "zeros"
        out = layer(case.images(1, [1] * layer.dims if small else reach, torch.float32))
        assert out.isfinite().all()
        out.sum().backward()


@check
def channels_last_gives_the_same(case: Case) -> None:
    """channels_last does not change the output in train or eval mode."""
    if case.kind.dims == 1:
        return
    layout = CHANNELS_LAST[case.kind.dims]
    for training in (True, False):
        layer, x = case.ready().train(training), case.images()
        want = copy.deepcopy(layer)(x)
        got = layer.to(memory_format=layout)(x.contiguous(memory_format=layout))
        assert_close(got, want)


@check
def autocast_is_close_and_finite(case: Case) -> None:
    """Under autocast the output is close to that in float32, and the branch computes in float32."""
    for training in (True, False):
        for dtype in (torch.bfloat16, torch.float16):
            layer, x = case.ready().float().train(training), case.images(4, dtype=torch.float32)
            want = copy.deepcopy(layer)(x)
            with torch.autocast("cpu", dtype):
                out, coefficients = layer(x), layer.coefficients(x)
            assert out.dtype == dtype
            assert all(part.dtype == torch.float32 for part in coefficients if part is not None)
            assert_close_to_scale(out.float(), want, str(dtype).removeprefix("torch."))
            out.float().square().mean().backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


@check
def layer_of_another_dtype(case: Case) -> None:
    """A layer that was cast to another dtype gives close outputs in that dtype."""
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        layer, x = case.make(), case.images(dtype=torch.float32)
        want = copy.deepcopy(layer).eval()(x)
        got = layer.to(dtype).eval()(x.to(dtype))
        assert got.dtype == dtype
        name = "float32" if dtype == torch.float64 else str(dtype).removeprefix("torch.")
        assert_close_to_scale(got.float(), want, name)


@check
def meta_device(case: Case) -> None:
    """The forward pass and `kernel` work on the meta device."""
    layer, x = case.make(device="meta"), case.images().to("meta", torch.float32)
    assert layer(x).device.type == "meta"
    assert layer.eval().kernel(x).shape == (3, *case.static_twin().weight.shape)


@check
def copies_and_state(case: Case) -> None:
    """Deep copies, pickles and state dicts give the same output."""
    layer, x = case.ready(), case.images()
    want = layer(x)
    fresh = case.make(dtype=torch.float64).eval()
    fresh.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert torch.equal(other(x), want)
    doubled = {key: 2 * value for key, value in layer.named_parameters()}
    assert not torch.equal(torch.func.functional_call(layer, doubled, (x,)), want)


@check
def options_rebuild_the_layer(case: Case) -> None:
    """`config` alone rebuilds the layer, also after conversion to plain values."""
    layer = case.make()
    assert type(layer.config).from_dict(layer.config.to_dict()) == layer.config
    again = case.kind.from_conv(case.static_twin(), **layer.config.changes())
    assert again.config == layer.config
    again.load_state_dict(layer.state_dict())


@check
def empty_batch(case: Case) -> None:
    """Every algorithm accepts an empty batch."""
    for algorithm in case.algorithms:
        layer = case.ready(algorithm=algorithm)
        assert layer(case.images(0)).shape == (0, *layer(case.images(1)).shape[1:])


@check
def a_static_state_dict_loads_through_the_key_weight(case: Case) -> None:
    """With neutral coefficients, the layer then gives the output of the static layer."""
    static, x = case.static_twin(dtype=torch.float64), case.images()
    layer = case.make(dtype=torch.float64).eval()
    missing, unexpected = layer.load_state_dict(static.state_dict(), strict=False)
    assert not unexpected
    assert not {"weight", "bias"} & set(missing)
    layer._neutralise()
    assert_close(layer(x), static(x))


@check
def looking_at_a_layer_leaves_it_as_it_was(case: Case) -> None:
    """Reading coefficients, kernels and biases does not change the state, also in train mode."""
    layer, x = case.ready().train(), case.images()
    before = copy.deepcopy(layer.state_dict())
    layer.coefficients(x)
    if not case.uses_batch_statistics:
        layer.kernel(x)
        layer.sample_bias(x)
    after = layer.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@check
def costs_are_given_for_every_algorithm(case: Case) -> None:
    """`algorithm_costs`, by which ``auto`` chooses, has valid costs for every algorithm."""
    layer = case.make(device="meta")
    costs = layer.algorithm_costs(tuple(case.images(2).shape))
    assert tuple(costs) == layer.algorithms
    assert all(cost.multiply_adds > 0 and cost.moved >= 0 and cost.calls > 0 for cost in costs.values())


@check
def coefficients_are_described(case: Case) -> None:
    """The family describes every coefficient, for tables and figures."""
    parts = case.ready().coefficients(case.images())._asdict()
    assert {name for name, value in parts.items() if value is not None} <= case.family.coefficients.keys()


@check
def export_keeps_the_batch_free(case: Case) -> None:
    """With ``auto``, the layer and its deployed form can be exported with a dynamic batch size."""
    layer = case.ready()
    batch = torch.export.Dim("batch", min=1, max=64)
    for module in (layer, layer.deployed()):
        program = torch.export.export(module, (case.images(3),), dynamic_shapes=({0: batch},)).module()
        for size in (1, 2, 5):
            x = case.images(size)
            assert_close(program(x), layer(x))


@check
def torch_fx_takes_it_for_one_operation(case: Case) -> None:
    """`torch.fx` traces a network that contains the layer or its deployed form."""
    layer, x = case.ready(), case.images()
    for module in (layer, layer.deployed()):
        traced = torch.fx.symbolic_trace(nn.Sequential(module, nn.ReLU()))
        assert_close(traced(x), layer(x).relu())


@check
def deployed_form_computes_the_same(case: Case) -> None:
    """All algorithms and kernels of the form give the layer's output. It has no batch norm; the layer is unchanged."""
    layer, x = case.ready(), case.images()
    want, before = layer(x), copy.deepcopy(layer.state_dict())
    form: Any = layer.deployed()
    assert isinstance(form, DeployedConv)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in form.modules())
    assert set(layer.algorithms) <= set(form.algorithms)
    for algorithm in (*form.algorithms, "auto"):
        form.algorithm = algorithm
        assert_close(form(x), want, message=algorithm)
    assert_close(convolve_each(form, x), want)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert conv_arguments(form) == conv_arguments(layer)


@check
def deployed_form_takes_in_a_norm(case: Case) -> None:
    """The form absorbs a norm twice, or raises ValueError and stays unchanged."""
    layer, x = case.ready(), case.images()
    form: Any = layer.deployed()
    want, before = layer(x), copy.deepcopy(form.state_dict())
    generator = torch.Generator().manual_seed(2)
    channels = want.shape[1]
    scale = torch.rand(channels, generator=generator, dtype=torch.float64) + 0.3
    scale = scale * (-1.0) ** torch.arange(channels)
    shift = torch.randn(channels, generator=generator, dtype=torch.float64)
    for _ in range(2):
        try:
            form.absorb_affine(scale, shift)
        except ValueError:
            torch.testing.assert_close(form.state_dict(), before, rtol=0, atol=0)
            return
        want = want * over_pixels(scale, layer.dims) + over_pixels(shift, layer.dims)
        for algorithm in (*form.algorithms, "auto"):
            form.algorithm = algorithm
            assert_close(form(x), want, message=algorithm)
        assert_close(convolve_each(form, x), want)


@check
def deployed_form_keeps_type_layout_and_state(case: Case) -> None:
    """The form keeps dtype and memory format; copies, pickles and state dicts give the same output."""
    layer, x = case.ready().float(), case.images(dtype=torch.float32)
    if layer.dims > 1:
        layer.to(memory_format=CHANNELS_LAST[layer.dims])
    form: Any = layer.deployed()
    assert form.weight.stride() == layer.conv_weight.stride()
    assert all(p.dtype == torch.float32 and not p.requires_grad and p.is_leaf for p in form.parameters())
    assert not any(module.training for module in form.modules())
    again: Any = case.ready().float().deployed()
    again.load_state_dict(form.state_dict())
    for other in (again, copy.deepcopy(form), form.deployed(), pickle.loads(pickle.dumps(form))):
        assert_close(other(x), form(x), "float32")
