"""What the network around a convolution says: stems, gates, blocks that fold or merge their kernels."""

import copy
import io

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dynaconv import convert, plan_conversion, revert
from dynaconv.conversion import apply_conversion, conversion_of
from dynaconv.errors import ConversionError
from tests.helpers import LAYERS, TOLERANCE
from tests.messages import refuses


class Foldable(nn.Module):
    """A block that another library folds: it drops ``bn``, writes to ``conv`` and switches to `forward_fuse`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


def fold_all(model: nn.Module) -> nn.Module:
    """What such a library does, in the form it is published in: by name, without a look at the classes."""
    for block in model.modules():
        if isinstance(block, Foldable) and hasattr(block, "bn"):
            conv, bn = block.conv, block.bn
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
            del block.bn
            block.forward = block.forward_fuse
    return model


@pytest.fixture
def foldable() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Foldable(8), Foldable(8))
    for _ in range(3):
        model(torch.randn(4, 3, 6, 6))
    return model.eval()


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_folding_by_another_library_keeps_a_trained_dynamic_network(family: str, foldable: nn.Sequential) -> None:
    x = torch.randn(2, 3, 6, 6)
    before = foldable(x)
    dynamic = convert(foldable, family, min_channels=1)
    torch.testing.assert_close(dynamic(x), before, **TOLERANCE["float32 twin"])
    with torch.no_grad():
        for parameter in dynamic.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    trained = dynamic(x)
    assert (trained - before).abs().max() > 0.1
    torch.testing.assert_close(fold_all(copy.deepcopy(dynamic))(x), trained, **TOLERANCE["float32"])
    file = io.BytesIO()
    torch.save(dynamic, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(x), trained, **TOLERANCE["float32"])


def test_foldable_blocks_train_and_come_back(foldable: nn.Sequential) -> None:
    dynamic = convert(foldable).train()
    dynamic(torch.randn(4, 3, 6, 6)).square().mean().backward()
    statistics = dict(dynamic.named_buffers())["1.conv.bn.running_mean"]
    assert not torch.equal(statistics, foldable[1].bn.running_mean)
    static = revert(dynamic)
    assert list(static.state_dict()) == list(foldable.state_dict())
    torch.testing.assert_close(static[1].bn.running_mean, statistics)
    assert "forward" not in vars(static[1])
    fold_all(static)


def test_foldable_block_under_two_names() -> None:
    block = Foldable(8)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), block, block).eval()
    x = torch.randn(2, 3, 6, 6)
    dynamic = convert(model)
    torch.testing.assert_close(dynamic(x), model(x), **TOLERANCE["float32 twin"])
    static = revert(dynamic)
    assert static[1] is static[2]
    torch.testing.assert_close(static(x), model(x), **TOLERANCE["float32 twin"])


def test_record_makes_the_same_conversion_again(foldable: nn.Sequential) -> None:
    dynamic = convert(convert(foldable, "dcd", include="1.conv", latent_dim=2), "dyconv", num_kernels=2, again=True)
    record = conversion_of(dynamic)
    assert record == {
        "1.conv": {"family": "dcd", "hyperparameters": {"latent_dim": 2}},
        "2.conv": {"family": "dyconv", "hyperparameters": {"num_kernels": 2}},
    }
    again = apply_conversion(copy.deepcopy(foldable), record)
    again.load_state_dict(dynamic.state_dict())
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(again(x), dynamic(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "record",
    [
        {"1.conv": {"family": "dcd", "hyperparameters": {"latent_dims": 2}}},
        {"1.conv": {"family": "dxd", "hyperparameters": {}}},
        {"1.conv": {"family": "dcd", "hyperparameters": {}}, "7.conv": {"family": "dcd", "hyperparameters": {}}},
        {"1.bn": {"family": "dcd", "hyperparameters": {}}},
        {"1.conv": "dcd"},
    ],
    ids=["unknown option", "unknown family", "unknown layer", "no convolution", "no mapping"],
)
def test_record_of_something_else_changes_nothing(record: dict[str, object], foldable: nn.Sequential) -> None:
    names = list(foldable.state_dict())
    with refuses(ConversionError):
        apply_conversion(foldable, record)
    assert list(foldable.state_dict()) == names


def test_blocks_that_merge_kernels_are_converted_after_that() -> None:
    model = timm.create_model("repvgg_a0", num_classes=4).eval()
    with refuses(ConversionError, "RepVggBlock"):
        convert(model)
    merged = timm.utils.reparameterize_model(model)
    x = torch.randn(1, 3, 32, 32)
    dynamic = convert(merged, include="stages.1.*")
    torch.testing.assert_close(dynamic(x), merged(x), **TOLERANCE["float32 twin"])


@pytest.mark.parametrize(
    ("name", "stem", "gates"),
    [("mobilenetv3_small_050", "conv_stem", 18), ("regnety_002", "stem.conv", 26), ("resnet26d", "conv1.0", 0)],
)
def test_stem_and_gates_stay_static(name: str, stem: str, gates: int) -> None:
    plan = plan_conversion(timm.create_model(name), "condconv")
    assert [layer.name for layer in plan.layers if layer.reason == "the stem"] == [stem]
    assert sum(str(layer.reason).startswith("part of a") for layer in plan.layers) == gates


def test_every_branch_that_reads_the_image_is_stem() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine = nn.Conv2d(3, 8, 3, padding=1)
            self.body = nn.Conv2d(16, 16, 1)
            self.coarse = nn.Conv2d(3, 8, 5, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(torch.cat([self.fine(x), self.coarse(x)], 1))

    assert [layer.name for layer in plan_conversion(Two()).converted] == ["body"]


def test_fixed_sum_is_left() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1, bias=False).requires_grad_(False))
    reasons = [layer.reason for layer in plan_conversion(model).layers]
    assert reasons == ["the stem", None, "a fixed weighted sum of channels"]
