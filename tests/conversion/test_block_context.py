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
from dynaconv.families import DynamicConv
from dynaconv.testing.cases import enlarge
from dynaconv.testing.tolerance import assert_close
from tests.helpers import LAYERS, assert_file_computes
from tests.messages import refuses

OPTIONS: dict[str, dict[str, Any]] = {"fdconv": {"min_channels": 1, "num_kernels": 4}}


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


def made(family: str = "dcd", **options: Any) -> Any:
    """A converted network in float64 and eval mode whose kernels depend on the context."""
    torch.manual_seed(0)
    net = convert(Net(), family, context="block", **{**OPTIONS.get(family, {}), **options})
    for layer in net.modules():
        if isinstance(layer, DynamicConv):
            enlarge(layer)
    return net.double().eval()


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(net: Any, x: Tensor) -> Tensor:
    """The forward pass of `Net` with every context given."""
    x = net.stem(x).relu()
    for block in net.blocks:
        context = x.mean((2, 3))
        out = block.norm(block.conv1(x, context)).relu()
        x = (block.conv2(out, context) + block.shortcut[0](x, context)).relu()
    out: Tensor = net.head(x).mean((2, 3))
    return out


@pytest.mark.parametrize("family", LAYERS)
def test_the_layers_of_a_block_read_the_averaged_input_of_its_first_one(family: str) -> None:
    net, x = made(family), images()
    assert {name: layer.context_features for name, layer in net.named_modules() if isinstance(layer, DynamicConv)} == {
        "blocks.0.conv1": 4,
        "blocks.0.conv2": 4,
        "blocks.0.shortcut.0": 4,
        "blocks.1.conv1": 6,
        "blocks.1.conv2": 6,
        "blocks.1.shortcut.0": 6,
        "head": None,
    }
    for mode in (True, False):
        # Statistics of norms move in train mode.
        twins = [copy.deepcopy(net).train(mode) for _ in range(2)]
        outs = twins[0](x), by_hand(twins[1], x)
        assert_close(*outs)
        upstream = torch.randn_like(outs[0])
        gradients = [
            torch.autograd.grad(out, [*twin.parameters()], upstream, materialize_grads=True)
            for out, twin in zip(outs, twins, strict=True)
        ]
        assert_close(*gradients)


@pytest.mark.parametrize("family", LAYERS)
def test_the_start_is_exact_and_returns(family: str) -> None:
    static, x = Net().double().eval(), images()
    net = convert(static, family, context="block", **OPTIONS.get(family, {}))
    assert_close(net(x), static(x))
    assert_close(net.train()(x), static.train()(x))
    assert_close(revert(net).eval()(x), static.eval()(x))


@pytest.mark.parametrize("family", LAYERS)
def test_copies_records_and_the_deployed_form_compute_the_same(family: str) -> None:
    net, x = made(family), images()
    record = json.loads(json.dumps(conversion_of(net)))
    again = apply_conversion(Net().double(), record).eval()
    again.load_state_dict(net.state_dict())
    program = torch.fx.symbolic_trace(net)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), again, program):
        for _ in range(2):
            assert_close(other(x), net(x))
    deployed = deploy(net, example=x)
    for other in (deployed, copy.deepcopy(deployed), pickle.loads(pickle.dumps(deployed))):
        assert_close(other(x), net(x))
    # A copy passes on its own context.
    other = copy.deepcopy(net)
    assert other.blocks[0].conv1.block_context is not net.blocks[0].conv1.block_context
    assert other.blocks[0].conv1.block_context is other.blocks[0].conv2.block_context


def test_an_export_has_a_free_batch() -> None:
    net = made()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (images(),), dynamic_shapes=({0: batch},)).module()
    for size in (1, 2, 7):
        assert_close(program(images(size)), net(images(size)))


def test_it_compiles_as_a_whole() -> None:
    net, x = made(), images()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert_close(compiled(x), net(x))
    # A compiled layer reads the context of one that is not.
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
    names = [name for name, layer in net.named_modules() if isinstance(layer, DynamicConv)]
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


def test_a_block_is_a_module_of_several_convolutions_without_a_smaller_block() -> None:
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
