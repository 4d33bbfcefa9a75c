from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import TOLERANCE
from tests.messages import refuses
from torch import Tensor, nn

from dynaconv.explain.decomposition import svd_form
from dynaconv.explain.suppression import measure_suppression, quartile_ratio, rank_correlation
from dynaconv.families import CondConv2d, DCDConv2d, DYConv2d, ODConv2d
from dynaconv.ops import per_sample_conv

EXACT = TOLERANCE["float64"]


class Net(nn.Module):
    """A dynamic layer in the middle of a small network."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, layer.in_channels, 3)
        self.dynamic = layer
        self.head = nn.Linear(layer.out_channels, 3)
        self.double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(1 + torch.rand_like(parameter))

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.dynamic(self.stem(x).relu()))

    def finish(self, y: Tensor) -> Tensor:
        return self.head(F.gelu(y).mean(dim=(2, 3)))


def _batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    images = [torch.randn(4, 2, 6, 7, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [(batch, torch.arange(4) % 3) for batch in images]


def _kernel_gradients(net: Net, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's input and G_b, the gradient with respect to each sample's kernel formed as a leaf."""
    layer: Any = net.dynamic
    with torch.no_grad():
        x = net.stem(images).relu()
        bias = layer.sample_bias(x)
        kernels = layer.kernel(x)
    kernels.requires_grad_()
    y = per_sample_conv(layer._padded(x), kernels, layer.geometry) + bias[:, :, None, None]
    torch.testing.assert_close(net.finish(y), net(images), **EXACT)
    (gradient,) = torch.autograd.grad(F.cross_entropy(net.finish(y), classes), kernels)
    return x, gradient


MIXTURES = {
    "softmax": lambda: DYConv2d(4, 6, 3, padding=1),
    "sigmoids": lambda: CondConv2d(6, 4, 1, num_experts=3),
    "groups": lambda: DYConv2d(4, 6, 3, groups=2, num_kernels=3),
    "depthwise": lambda: CondConv2d(6, 6, 3, groups=6, num_experts=2),
}


@pytest.mark.parametrize("make", MIXTURES.values(), ids=MIXTURES)
def test_the_columns_of_a_mixture_get_the_gradient_that_real_leaves_would(make: Any) -> None:
    net, batches = Net(make()), _batches()
    layer = net.dynamic
    (found,) = measure_suppression(net, batches).layers
    form = svd_form(layer.weight.detach(), groups=layer.groups if layer.weight.shape[2] > 1 else 1)
    u, v, s = form.u.clone().requires_grad_(), form.v.clone().requires_grad_(), form.singular_values
    want = [torch.zeros_like(s), torch.zeros_like(s)]
    attention = []
    for images, classes in batches:
        x = net.stem(images).relu()
        a = layer.coefficients(x).attention
        attention.append(a.detach())
        residual = torch.einsum("kgmr,bkgr,kgnr->bgmn", u, a[:, :, None, None] * s, v)
        kernels = a.sum(1)[:, None, None, None, None] * form.mean + residual.reshape(-1, *form.mean.shape)
        y = per_sample_conv(layer._padded(x), kernels, layer.geometry) + layer.sample_bias(x)[:, :, None, None]
        for total, gradient in zip(
            want, torch.autograd.grad(F.cross_entropy(net.finish(y), classes), (u, v)), strict=True
        ):
            total += gradient.norm(dim=2) / len(batches)
    kept = s > 1e-6 * s.max()
    torch.testing.assert_close(found.outputs.gradients, want[0][kept], **EXACT)
    torch.testing.assert_close(found.inputs.gradients, want[1][kept], **EXACT)
    coefficients = (torch.cat(attention).mean(0)[:, None, None] * s)[kept]
    torch.testing.assert_close(found.outputs.coefficients, coefficients, **EXACT)
    torch.testing.assert_close(found.attention, torch.cat(attention).mean(0), **EXACT)


def test_the_definition_by_each_samples_kernel_gradient() -> None:
    net, batches = Net(DYConv2d(4, 6, 3, padding=1)), _batches(1)
    (found,) = measure_suppression(net, batches).layers
    x, per_sample = _kernel_gradients(net, *batches[0])
    attention = net.dynamic.coefficients(x).attention.detach()
    form = svd_form(net.dynamic.weight.detach())
    by_kernel = torch.einsum("bk,bmn->kmn", attention, per_sample.flatten(2))
    u = (by_kernel @ form.v[:, 0]).norm(dim=1) * form.singular_values[:, 0]
    torch.testing.assert_close(found.outputs.gradients, u.flatten(), **EXACT)
    torch.testing.assert_close(found.kernel_gradients, by_kernel.flatten(1).norm(dim=1), **EXACT)


DCD = {
    "pointwise": {},
    "centre": {"kernel_size": 3, "padding": 1},
    "blocks": {"blocks": 2, "latent_dim": 2},
    "joint": {"kernel_size": 3, "fusion": "joint", "latent_dim": 3, "latent_taps": 2},
    "joint-blocks": {"kernel_size": 3, "fusion": "joint", "latent_dim": 2, "latent_taps": 2, "blocks": 2},
    "depthwise": {"kernel_size": 3, "groups": 6},
}


@pytest.mark.parametrize("options", DCD.values(), ids=DCD)
def test_the_columns_of_dcd_get_the_gradient_that_unit_columns_would(options: dict[str, Any]) -> None:
    given = {"kernel_size": 1, "variant": "residual", **options}
    layer = DCDConv2d(6, 6, context_norm="layer", weight_norm=False, **given)
    net, batches = Net(layer), _batches()
    (found,) = measure_suppression(net, batches).layers
    second = "r" if layer.sizes.form == "depthwise" else "q"
    blocks = 1 if layer.sizes.form == "depthwise" else layer.sizes.blocks
    leaves = {}
    for name in ("p", second):
        matrix = getattr(layer, name).detach().reshape(blocks, -1, getattr(layer, name).shape[1])
        lengths = matrix.norm(dim=1, keepdim=True)
        leaves[name] = (matrix / lengths).requires_grad_(), lengths
    want = dict.fromkeys(leaves, 0.0)
    for images, classes in batches:
        changed = {f"dynamic.{name}": (unit * lengths).flatten(0, 1) for name, (unit, lengths) in leaves.items()}
        value = F.cross_entropy(torch.func.functional_call(net, changed, (images,)), classes)
        gradients = torch.autograd.grad(value, [unit for unit, _ in leaves.values()])
        for name, gradient in zip(leaves, gradients, strict=True):
            want[name] = want[name] + gradient.norm(dim=1).flatten() / len(batches)
    torch.testing.assert_close(found.outputs.gradients, want["p"], **EXACT)
    torch.testing.assert_close(found.inputs.gradients, want[second], **EXACT)


def test_what_scales_a_column_of_dcd_is_its_row_or_column_of_phi_between_unit_columns() -> None:
    net, batches = Net(DCDConv2d(6, 5, 1, latent_dim=3, context_norm="layer", weight_norm=False)), _batches(1)
    (found,) = measure_suppression(net, batches).layers
    layer = net.dynamic
    with torch.no_grad():
        phi = layer.coefficients(net.stem(batches[0][0]).relu()).fusion
    phi = layer.p.norm(dim=0)[:, None] * phi * layer.q.norm(dim=0)
    torch.testing.assert_close(found.outputs.coefficients, phi.norm(dim=2).mean(0).detach(), **EXACT)
    torch.testing.assert_close(found.inputs.coefficients, phi.norm(dim=1).mean(0).detach(), **EXACT)
    torch.testing.assert_close(found.outputs.own, phi.diagonal(dim1=1, dim2=2).abs().mean(0).detach(), **EXACT)
    # The same kernel from other lengths of P's columns is measured alike.
    with torch.no_grad():
        layer.p[:, 1] *= 10
        layer._head("fusion").reshape(3, 3, -1)[1] /= 10
    (again,) = measure_suppression(net, batches).layers
    torch.testing.assert_close(again.outputs.coefficients, found.outputs.coefficients, **EXACT)
    torch.testing.assert_close(again.outputs.gradients, found.outputs.gradients, **EXACT)


def test_a_kernel_without_attention_gets_no_gradient_and_a_silent_diagonal_still_does() -> None:
    mixture = Net(DYConv2d(4, 4, 1))
    with torch.no_grad():
        mixture.dynamic.branch.heads["attention"].weight.zero_()
        mixture.dynamic.branch.heads["attention"].bias.copy_(torch.tensor([0.0, 0.0, 0.0, -60.0]))
    (layer,) = measure_suppression(mixture, _batches()).layers
    assert layer.kernel_gradients is not None
    assert float(layer.kernel_gradients[3]) < 1e-20 < float(layer.kernel_gradients[0])
    assert layer.gradient_ratio < 1e-20
    joined = Net(DCDConv2d(8, 8, 1, latent_dim=4))
    with torch.no_grad():
        joined.dynamic._head("fusion").reshape(4, 4, -1)[0, 0] = 0
    (layer,) = measure_suppression(joined, _batches()).layers
    assert float(layer.outputs.own[0]) == 0
    assert layer.gradient_ratio > 0.05
    assert layer.coefficient_ratio == 0


def test_rank_correlation_and_quartiles_by_hand() -> None:
    assert rank_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([10.0, 1000, 1001])) == pytest.approx(1)
    assert rank_correlation(torch.tensor([1.0, 2, 3, 4]), torch.tensor([4.0, 3, 2, 1])) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    tied = rank_correlation(torch.tensor([1.0, 2, 2, 3]), torch.tensor([1.0, 2, 3, 4]))
    assert tied == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(rank_correlation(torch.ones(3), torch.arange(3.0)))
    assert quartile_ratio(torch.arange(8.0), torch.tensor([1.0, 3, 9, 9, 9, 9, 10, 30])) == pytest.approx(0.1)
    assert math.isnan(quartile_ratio(torch.ones(3), torch.ones(3)))


def test_the_network_is_left_as_it_was() -> None:
    net = Net(DYConv2d(4, 6, 1)).train()
    net.dynamic.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = measure_suppression(net, _batches(3), max_batches=2)
    assert (found.images, found.batches) == (8, 2)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not net.dynamic.weight.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(module.training and not module._forward_pre_hooks for module in net.modules())


def test_layers_that_the_measure_does_not_cover_are_named_with_the_reason() -> None:
    net = nn.Sequential(
        DYConv2d(2, 4, 1), ODConv2d(4, 4, 1), DCDConv2d(4, 4, 1, norm="batch"), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).double()
    found = measure_suppression(net, _batches())
    assert [layer.name for layer in found.layers] == ["0"]
    assert found.skipped == {
        "1": "it is neither a mixture of kernels nor DCD",
        "2": "its latent batch norms add a skip over Phi",
    }
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["layers"][0]["columns"] == 8
    assert written["own_correlation"] == found.layers[0].own_correlation
    with refuses(ValueError):
        measure_suppression(nn.Sequential(DCDConv2d(2, 4, 1, variant="scale")), _batches())
    with refuses(ValueError):
        measure_suppression(net, [])
