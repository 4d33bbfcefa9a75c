"""`convert(net, family, context="block")`: the layers of a block read the averaged input of its first layer."""

import copy
import json
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dynaconv import (
    apply_conversion,
    conversion_of,
    convert,
    deploy,
    export_onnx,
    freeze,
    plan_conversion,
    profile,
    revert,
)
from dynaconv.conversion.blocks import first_of_block
from dynaconv.errors import ConversionError
from dynaconv.explain.coefficients import collect_coefficients
from dynaconv.explain.freezing import rank_layers
from dynaconv.families import DynamicLayer
from dynaconv.testing.cases import enlarge
from dynaconv.testing.tolerance import assert_close
from tests.helpers import LAYERS, assert_file_computes
from tests.messages import refuses

OPTIONS: dict[str, dict[str, Any]] = {"fdconv": {"min_channels": 1, "num_kernels": 4}}
WITH_LINEAR = ("dcd", "kernel_warehouse")


class Block(nn.Module):
    """A residual block with a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.norm(self.conv1(x)).relu()) + self.shortcut(x)).relu()


class Net(nn.Module):
    """A stem and two blocks of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(Block(4, 6), Block(6, 8))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).relu())).mean((2, 3))

    def by_hand(self, x: Tensor) -> Tensor:
        """The forward pass with every context given."""
        x = self.stem(x).relu()
        for block in self.blocks:
            context = x.mean((2, 3))
            out = block.norm(block.conv1(x, context)).relu()
            x = (block.conv2(out, context) + block.shortcut[0](x, context)).relu()
        out: Tensor = self.head(x).mean((2, 3))
        return out


class Rows(nn.Module):
    """A stem, a block of a convolution and linear layers as in ConvNeXt, an MLP, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.mixed = nn.ModuleDict({"conv": nn.Conv2d(4, 6, 3), "fc1": nn.Linear(6, 8), "fc2": nn.Linear(8, 6)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(6, 12), "fc2": nn.Linear(12, 6)})
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, given=False)

    def by_hand(self, x: Tensor) -> Tensor:
        """The forward pass with every context given."""
        return self.run(x, given=True)

    def run(self, x: Tensor, *, given: bool) -> Tensor:
        x = self.stem(x).relu()
        context = (x.mean((2, 3)),) * given
        x = self.mixed["conv"](x, *context).permute(0, 2, 3, 1)
        x = x + self.mixed["fc2"](self.mixed["fc1"](x, *context).relu(), *context)
        context = (x.mean((1, 2)),) * given
        x = x + self.mlp["fc2"](self.mlp["fc1"](x, *context).relu(), *context)
        out: Tensor = self.head(x.mean((1, 2)))
        return out


KINDS: dict[type[Net] | type[Rows], dict[str, Any]] = {Net: {}, Rows: {"kinds": ("spatial", "linear")}}
CASES = [*((family, Net) for family in LAYERS), *((family, Rows) for family in WITH_LINEAR)]
FEATURES: dict[Any, dict[str, int | None]] = {
    Net: {
        "blocks.0.conv1": 4,
        "blocks.0.conv2": 4,
        "blocks.0.shortcut.0": 4,
        "blocks.1.conv1": 6,
        "blocks.1.conv2": 6,
        "blocks.1.shortcut.0": 6,
        "head": None,
    },
    Rows: {"mixed.conv": 4, "mixed.fc1": 4, "mixed.fc2": 4, "mlp.fc1": 6, "mlp.fc2": 6, "head": None},
}


def made(family: str = "dcd", of: Any = Net) -> Any:
    """A converted network in float64 and eval mode whose kernels depend on the context."""
    torch.manual_seed(0)
    net = convert(of(), family, context="block", **OPTIONS.get(family, {}), **KINDS[of])
    for layer in net.modules():
        if isinstance(layer, DynamicLayer):
            enlarge(layer)
    return net.double().eval()


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("family", "of"), CASES)
def test_the_layers_of_a_block_read_the_averaged_input_of_its_first_one(family: str, of: Any) -> None:
    net, x = made(family, of), images()
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, DynamicLayer)}
    assert {name: layer.context_features for name, layer in layers.items()} == FEATURES[of]
    for mode in (True, False):
        # Statistics of norms move in train mode.
        twins = [copy.deepcopy(net).train(mode) for _ in range(2)]
        outs = twins[0](x), twins[1].by_hand(x)
        assert_close(*outs)
        upstream = torch.randn_like(outs[0])
        gradients = [
            torch.autograd.grad(out, [*twin.parameters()], upstream, materialize_grads=True)
            for out, twin in zip(outs, twins, strict=True)
        ]
        assert_close(*gradients)


@pytest.mark.parametrize(("family", "of"), CASES)
def test_the_start_is_exact_and_returns(family: str, of: Any) -> None:
    static, x = of().double().eval(), images()
    net = convert(static, family, context="block", **OPTIONS.get(family, {}), **KINDS[of])
    assert_close(net(x), static(x))
    assert_close(net.train()(x), static.train()(x))
    assert_close(revert(net).eval()(x), static.eval()(x))


@pytest.mark.parametrize(("family", "of"), CASES)
def test_copies_records_and_the_deployed_form_compute_the_same(family: str, of: Any) -> None:
    net, x = made(family, of), images()
    record = json.loads(json.dumps(conversion_of(net)))
    again = apply_conversion(of().double(), record).eval()
    again.load_state_dict(net.state_dict())
    program = torch.fx.symbolic_trace(net)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), again, program):
        for _ in range(2):
            assert_close(other(x), net(x))
    deployed = deploy(net, example=x)
    for other in (deployed, copy.deepcopy(deployed), pickle.loads(pickle.dumps(deployed))):
        assert_close(other(x), net(x))
    # A copy passes on its own context.
    first, second = [name for name, features in FEATURES[of].items() if features == 4][:2]
    layers, copied = (dict(each.named_modules()) for each in (net, copy.deepcopy(net)))
    assert copied[first].block_context is not layers[first].block_context
    assert copied[first].block_context is copied[second].block_context


@pytest.mark.parametrize("of", KINDS)
def test_an_export_has_a_free_batch(of: Any) -> None:
    net = made(of=of)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (images(),), dynamic_shapes=({0: batch},)).module()
    for size in (1, 2, 7):
        assert_close(program(images(size)), net(images(size)))


@pytest.mark.parametrize("of", KINDS)
def test_it_compiles_as_a_whole(of: Any) -> None:
    net, x = made(of=of), images()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert_close(compiled(x), net(x))


def test_a_compiled_layer_reads_the_context_of_one_that_is_not() -> None:
    net, x = made(), images()
    want = net(x)
    net.blocks[0].conv2.compile(backend="aot_eager")
    with torch.no_grad():
        assert_close(net(x), want)


@pytest.mark.export
@pytest.mark.parametrize(("family", "rewrite"), [("dcd", True), ("condconv", False)])
def test_onnx_runtime_computes_the_same(family: str, rewrite: bool, tmp_path: Any) -> None:
    net = made(family).float().blocks[0]
    export_onnx(net, tmp_path / "block.onnx", torch.randn(1, 4, 6, 5), rewrite=rewrite)
    assert_file_computes(tmp_path / "block.onnx", net, (4, 6, 5))


@pytest.mark.export
@pytest.mark.parametrize("family", WITH_LINEAR)
def test_onnx_runtime_computes_linear_layers_of_a_block(family: str, tmp_path: Any) -> None:
    net = made(family, Rows).float()
    export_onnx(net, tmp_path / "rows.onnx", torch.randn(1, 3, 9, 8))
    assert_file_computes(tmp_path / "rows.onnx", net, (3, 9, 8))


def test_linear_layers_mask_and_check_their_batch() -> None:
    net = made(of=Rows)
    first, second = net.mlp["fc1"], net.mlp["fc2"]
    x, mask = torch.randn(2, 5, 6, dtype=torch.float64), torch.arange(5) < torch.tensor([[5], [3]])
    out = first(x, mask=mask)
    assert_close(out[1:, :3], first(x[1:, :3], x[1:, :3].mean(1)))
    with refuses(ValueError, "'mlp.fc1'", "B=2", "B=10"):
        second(out.flatten(0, 1))
    assert_close(second(out)[1], second(out[1:], x[1:, :3].mean(1))[0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_block_has_the_same_gradients(reentrant: bool) -> None:
    net = made()
    x = net.stem(images()).relu().detach().requires_grad_()
    want = torch.autograd.grad(net.blocks(x).square().sum(), [x, net.blocks[0].conv2.weight])
    out = x
    for block in net.blocks:
        out = checkpoint(block, out, use_reentrant=reentrant)
    out.square().sum().backward()
    assert_close([x.grad, net.blocks[0].conv2.weight.grad], list(want))


def test_a_checkpoint_of_a_single_layer_is_refused() -> None:
    block = made().blocks[0]
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    out = checkpoint(block.conv2, block.conv1(x), use_reentrant=False)
    block.shortcut(x)
    with refuses(ValueError, "blocks.0.conv1"):
        out.sum().backward()


def test_threads_do_not_see_each_others_contexts() -> None:
    """As the replicas of DataParallel, whose layers have one object for the context of a block."""
    net, barrier, got = made(), threading.Barrier(2), {}
    block = net.blocks[0]
    xs = [torch.randn(2, 4, 6, 6, dtype=torch.float64) for _ in range(2)]
    want = [block(x) for x in xs]

    def wait(*_: Any) -> None:
        barrier.wait(timeout=60)

    block.conv1.register_forward_hook(wait)

    def run(number: int) -> None:
        got[number] = block(xs[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_close([got[0], got[1]], want)


def test_a_use_out_of_order_or_across_batches_is_an_error() -> None:
    net, x = made(), images()
    block = net.blocks[0]
    net(x)
    feature = torch.randn(3, 6, 6, 6, dtype=torch.float64)
    for call in (block.conv2, block.conv2.kernel, block.conv2.coefficients):
        with refuses(ValueError, "'blocks.0.conv1'"):
            call(feature)
    block.conv1(torch.randn(2, 4, 6, 6, dtype=torch.float64))
    with refuses(ValueError, "B=2", "B=3"):
        block.conv2(feature)
    block.conv2(feature[:2])
    with refuses(ValueError, "'blocks.0.conv1'"):
        block.conv2(feature[:2])
    with refuses(ValueError, "leave the mask out"):
        block.conv2(feature[:2], mask=torch.ones(2, 6, 6))
    with refuses(ValueError, "'blocks.0.conv1'"):
        copy.deepcopy(block.conv2)(feature)
    # Nothing remains after a whole pass.
    assert not net.blocks[1].conv1.block_context._stored


def test_networks_are_analysed_frozen_and_profiled() -> None:
    net, x = made("condconv"), images(9)
    batches = [(x, torch.arange(9) % 5)]
    names = [name for name, layer in net.named_modules() if isinstance(layer, DynamicLayer)]
    assert {layer.name for layer in collect_coefficients(net, batches, num_classes=5)} == set(names)
    assert {effect.name for effect in rank_layers(net, batches).layers} == set(names)
    assert profile(net, (3, 9, 8)).macs > 0
    frozen = freeze(net, "blocks.0.conv2", x)
    assert type(frozen.blocks[0].conv2) is nn.Conv2d
    assert not frozen.blocks[0].conv2._forward_pre_hooks
    assert frozen(x).shape == net(x).shape
    assert freeze(net, "blocks.0.*", x)(x).shape == net(x).shape
    with refuses(ConversionError, "'blocks.0.conv1'"):
        freeze(net, "blocks.0.conv1", x)
    net = made(of=Rows)
    assert {effect.name for effect in rank_layers(net, batches).layers} == FEATURES[Rows].keys()
    assert profile(net, (3, 9, 8)).macs > 0
    assert type(freeze(net, "mlp.fc2", x).mlp["fc2"]) is nn.Linear
    with refuses(ConversionError, "'mlp.fc1'"):
        freeze(net, "mlp.fc1", x)


def test_a_block_is_a_module_of_several_layers_without_a_smaller_block() -> None:
    assert first_of_block(["a.conv1", "a.conv2", "a.down.0", "head"]) == dict.fromkeys(
        ("a.conv1", "a.conv2", "a.down.0"), "a.conv1"
    )
    wrapped = ["0.conv.0.0", "0.conv.1.0", "0.conv.2", "1.cv1.conv", "1.m.0.cv1.conv", "1.m.0.cv2.conv"]
    assert first_of_block(wrapped) == {
        **dict.fromkeys(wrapped[:3], wrapped[0]),
        **dict.fromkeys(wrapped[4:], wrapped[4]),
    }
    assert first_of_block(["0", "2"]) == {"0": "0", "2": "0"}
    assert first_of_block([""]) == first_of_block([]) == {}


def test_the_plan_says_who_shares_and_mistakes_are_refused() -> None:
    plan = plan_conversion(Net(), "dcd", context="block")
    assert "(computes the context of its block)" in str(plan)
    assert "(context of blocks.1.conv1)" in str(plan)
    assert [layer.name for layer in plan.layers if "in no block" in layer.note] == ["head"]
    assert "no block" not in str(plan_conversion(Net(), "dcd"))
    assert plan.converted_params == sum(parameter.numel() for parameter in plan.apply(Net()).parameters())
    with refuses(ConversionError, "context"):
        convert(Net(), "dcd", context="stage")  # type: ignore[arg-type]
    with refuses(ConversionError, "context_size"):
        convert(Net(), "dcd", context="block", context_size=2)
    with refuses(ConversionError, "shared_context"):
        convert(Net(), "dcd", shared_context="stem")
    with refuses(ValueError, "context_features"):
        LAYERS["dcd"](4, 4, 1, shared_context="a")
    with refuses(ValueError, "shared_context"):
        LAYERS["dcd"](4, 4, 1, shared_context="", context_features=4)
    record = conversion_of(plan.apply(Net()))
    with refuses(ConversionError, "'blocks.0.conv1'"):
        apply_conversion(Net(), {name: entry for name, entry in record.items() if name != "blocks.0.conv1"})
    record["blocks.0.conv2"]["hyperparameters"]["context_features"] = 5
    with refuses(ConversionError, "context_features=5"):
        apply_conversion(Net(), record)
