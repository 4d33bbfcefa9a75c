"""Layers on another device: nothing is created on the processor. Fake CUDA tensors show it without a GPU."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dynaconv import deploy
from dynaconv.testing import assert_close
from tests.families.cases import CASES

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")


# One case of each family and geometry, because each takes a tenth of a second.
FEW = [name for name in CASES if name.endswith(("-pointwise", "-square", "-depthwise"))]
FEW += ["dcd-joint", "dcd-channel", "dcd-context-2x2"]


@pytest.mark.parametrize("form", ["train", "eval", "deployed"])
@pytest.mark.parametrize("name", FEW)
def test_every_tensor_is_on_the_layers_device(name: str, form: str) -> None:
    layer = CASES[name].ready().train(form == "train")
    if form == "deployed":
        layer = deploy(layer)
    # An operator on tensors of several devices raises an error.
    with FakeTensorMode() as mode:
        for module in layer.modules():
            for key, value in module.named_parameters(recurse=False):
                fake = mode.from_tensor(value).to("cuda")
                module._parameters[key] = nn.Parameter(fake, requires_grad=value.requires_grad)
            for key, value in module.named_buffers(recurse=False):
                module._buffers[key] = mode.from_tensor(value).to("cuda")
        x = mode.from_tensor(CASES[name].images(2)).to("cuda")
        assert layer(x).is_cuda


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_computes_what_the_processor_computes(name: str) -> None:
    layer, x = CASES[name].ready(), CASES[name].images()
    want = layer(x)
    upstream = torch.randn_like(want)
    gradients = torch.autograd.grad(want, tuple(layer.parameters()), upstream, allow_unused=True)
    layer.to("cuda")
    got = layer(x.cuda())
    moved = torch.autograd.grad(got, tuple(layer.parameters()), upstream.cuda(), allow_unused=True)
    assert_close(got.cpu(), want)
    for mine, theirs in zip(moved, gradients, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert_close(mine.cpu(), theirs)
    assert_close(deploy(layer.eval())(x.cuda()), layer(x.cuda()))
