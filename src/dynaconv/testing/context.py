"""Checks of contexts that are given to a layer, and of masks, each for one case."""

import copy
from typing import Any

import torch
from torch import Tensor

from dynaconv.families import DynamicConv
from dynaconv.ops import pool_context, shared_conv
from dynaconv.testing.cases import Case
from dynaconv.testing.contract import check, convolve_each, value_and_gradients
from dynaconv.testing.tolerance import assert_close

FEATURES = 5
"""Length of the given contexts."""


def taking_context(case: Case, **options: Any) -> DynamicConv | None:
    """Return the layer of a case with `context_features`; None if the family or another option does not allow it."""
    if not case.kind._accepts_context:
        return None
    try:
        return case.ready(**{"context_features": FEATURES, **options})
    except ValueError as error:
        if "context_features" in str(error):
            return None
        raise


def contexts(batch: int = 3, features: int = FEATURES) -> Tensor:
    """Random contexts."""
    return torch.randn(batch, features, dtype=torch.float64)


@check
def a_given_context_makes_each_samples_kernel(case: Case) -> None:
    """By every algorithm, output and gradients are those of a convolution with ``kernel(x, context)``, in float64."""
    for algorithm in case.algorithms:
        layer, x, context = taking_context(case, algorithm=algorithm), case.images(), contexts()
        if layer is None:
            return
        leaves = [x.requires_grad_(), context.requires_grad_(), *layer.parameters()]
        want = value_and_gradients(convolve_each(layer, x, context), leaves)
        assert_close(value_and_gradients(layer(x, context), leaves), want, message=algorithm)
        each = torch.cat([layer(x[i : i + 1], context[i : i + 1]) for i in range(3)])
        assert_close(layer(x, context), each, message=algorithm)
        assert not torch.allclose(layer(x, context), layer(x, -context))


@check
def the_own_context_given_is_the_layer_without_one(case: Case) -> None:
    """Given the average that a layer computes itself, one with the same state has the same output and gradients."""
    own = case.ready()
    layer = taking_context(case, context_features=own._branch_features)
    # A part that keeps reading the input has no norm of the context then.
    if layer is None or (hasattr(layer, "bands") and own.context_norm is not None):
        return
    layer.load_state_dict(own.state_dict())
    x = case.images().requires_grad_()
    read = x
    if hasattr(layer, "_of_output"):
        # Squeeze-and-excitation averages its output.
        read = shared_conv(layer._padded(x), layer.weight, layer.geometry, layer.bias)
    context = pool_context(read, 1, torch.float64)
    assert_close(
        value_and_gradients(layer(x, context), [x, *layer.parameters()]),
        value_and_gradients(own(x), [x, *own.parameters()]),
    )


@check
def a_given_context_keeps_the_neutral_start(case: Case) -> None:
    """`from_conv` keeps the output of the static convolution for every context, and every parameter can learn."""
    if taking_context(case) is None:
        return
    conv, x = case.static_twin(dtype=torch.float64), case.images()
    layer = Case(case.family, case.name, {**case.arguments, "context_features": FEATURES}, case.layer).neutral(conv)
    for training in (True, False):
        assert_close(layer.train(training)(x, 10 * contexts()), conv(x))
    trained = taking_context(case)
    assert trained is not None
    trained.train()(x, contexts()).square().sum().backward()
    for key, parameter in trained.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@check
def the_deployed_form_takes_the_context(case: Case) -> None:
    """All algorithms of the form, and copies of it, give the layer's output; it takes in a norm or refuses."""
    layer, x, context = taking_context(case), case.images(), contexts()
    if layer is None:
        return
    form: Any = layer.deployed()
    for algorithm in (*form.algorithms, "auto"):
        form.algorithm = algorithm
        assert_close(form(x, context), layer(x, context), message=algorithm)
    assert_close(copy.deepcopy(form)(x, context), layer(x, context))
    scale = torch.linspace(-2, -1, layer.out_channels, dtype=torch.float64)
    form.absorb_affine(scale, scale)
    along = (-1, *[1] * layer.dims)
    for algorithm in (*form.algorithms, "auto"):
        form.algorithm = algorithm
        assert_close(form(x, context), (layer(x, context) + 1) * scale.reshape(along), message=algorithm)


@check
def padding_that_a_mask_names_has_no_effect(case: Case) -> None:
    """With a mask, samples in a padded batch have the kernels and outputs that they have alone."""
    layer = case.ready()
    # Other modes than zeros pad a sample by its own pixels.
    if not case.kind._accepts_context or layer._mask_refusal() is not None or layer.padding_mode != "zeros":
        return
    full = case.images(2)
    sizes = [tuple(full.shape[2:]), tuple(size - 2 for size in full.shape[2:])]
    mask = torch.zeros(2, *full.shape[2:], dtype=torch.bool)
    for number, lengths in enumerate(sizes):
        mask[number][tuple(slice(length) for length in lengths)] = True
    # Padding that is no number would show in any average that includes it.
    garbage = full.masked_fill(~mask.unsqueeze(1), float("nan"))
    x = full * mask.unsqueeze(1)
    form = layer.deployed()
    for number, lengths in enumerate(sizes):
        alone = x[number : number + 1][(slice(None), slice(None), *(slice(length) for length in lengths))]
        if layer.geometry.pointwise:
            assert_close(layer.kernel(garbage, mask=mask)[number], layer.kernel(alone)[0])
        assert_close(layer.kernel(x, mask=mask.unsqueeze(1).float())[number], layer.kernel(alone)[0])
        if layer.transposed:
            continue
        want = layer(alone)[0]
        inside = (slice(None), *(slice(length) for length in want.shape[1:]))
        assert_close(layer(x, mask=mask)[number][inside], want)
        assert_close(form(x, mask=mask)[number][inside], want)
