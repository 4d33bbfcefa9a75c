"""Whole networks: native in float32 compared with torch in float64."""

import contextlib
import os

import pytest
import timm
import torch
from torch import nn

from dynaconv import deploy
from dynaconv.native import NativeProgram, recognise
from dynaconv.native.lowering import lower
from tests.native.programs import check_threads
from tests.native.test_layers import check, randomise_heads


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("dcd_mobilenetv2_035", (3, 3, 64, 64)),
        ("dcd_mobilenetv2_035", (1, 3, 97, 75)),
        ("static_mobilenetv2_035", (9, 3, 32, 32)),
        ("dcd_resnet10", (2, 3, 64, 64)),
        ("static_resnet50", (1, 3, 33, 64)),
    ],
)
def test_whole_networks_are_one_program(name: str, size: tuple[int, ...]) -> None:
    network = timm.create_model(name, num_classes=10).eval()
    assert isinstance(deploy(network, backend="native"), NativeProgram)
    check(randomise_heads(network), torch.randn(size))


def test_dynamic_depthwise_convolutions() -> None:
    network = timm.create_model("dcd_mobilenetv2_035", num_classes=10, dynamic=("pointwise", "depthwise", "classifier"))
    assert isinstance(deploy(network.eval(), backend="native"), NativeProgram)
    check(randomise_heads(network), torch.randn(3, 3, 64, 64))


def test_published_structure() -> None:
    """Covers gates, latent norms, contexts of four cells and a dynamic classifier."""
    network = timm.create_model("dcd_resnet10_published", num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        # Sets the batch norm statistics to those of the activations; with the initial ones the network amplifies
        # rounding errors.
        network(torch.randn(16, 3, 64, 64))
    assert isinstance(deploy(network.eval(), backend="native"), NativeProgram)
    check(network, torch.randn(4, 3, 64, 64))


def test_features_of_stages_are_kept() -> None:
    network = timm.create_model("dcd_mobilenetv2_035", features_only=True).eval()
    native = deploy(network, backend="native")
    programs = [module for module in native.modules() if isinstance(module, NativeProgram)]
    assert len(programs) >= 7
    for program in programs:
        program.original.forward = None
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(native(x), deploy(network)(x), rtol=1e-4, atol=1e-4)


def test_threads_and_groups_change_nothing() -> None:
    network = randomise_heads(timm.create_model("dcd_mobilenetv2_035", num_classes=10).eval())
    native = deploy(network, backend="native")
    check_threads(native, torch.randn(11, 3, 64, 64), threads=(1, 2, 3), batches=(1, 2, 5, 11))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs threads bound to processors")
def test_threads_that_share_a_processor_change_nothing() -> None:
    """Threads are preempted while they hold chunks, until the main thread runs alone."""
    native = deploy(randomise_heads(timm.create_model("dcd_mobilenetv2_035", num_classes=10).eval()), backend="native")
    x, before = torch.randn(1, 3, 64, 64), os.sched_getaffinity(0)
    with torch.no_grad():
        want = native(x)
        try:
            torch.set_num_threads(2)
            native(x)
            _bind_all_threads({min(before)})
            for _ in range(100):
                torch.testing.assert_close(native(x), want, rtol=0, atol=0)
        finally:
            _bind_all_threads(before)
            torch.set_num_threads(1)


def _bind_all_threads(processors: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), processors)


def test_hooks_keep_a_module_in_torch() -> None:
    network = timm.create_model("dcd_mobilenetv2_035", num_classes=10).eval()
    seen = []
    network.blocks[2][1].conv_dw.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    native = deploy(network, backend="native")
    assert not isinstance(native, NativeProgram)
    seen.clear()
    with torch.no_grad():
        native(torch.randn(1, 3, 64, 64))
    assert len(seen) == 1


def test_a_block_with_an_unknown_part_stays_in_torch() -> None:
    block = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Conv2d(8, 8, 3, padding_mode="reflect"), nn.Conv2d(8, 4, 1), nn.ReLU()
    )
    native = deploy(block.eval(), backend="native")
    assert [type(module).__name__ for module in native] == [
        "NativeProgram",
        "Softplus",
        "Conv2d",
        "NativeProgram",
        "IdentityProxy",
    ]
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(native(x), block(x), rtol=1e-5, atol=1e-5)


def test_each_module_of_a_sequence_is_lowered_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for the longest run must not lower the first module again for each later one."""
    lowered = []
    monkeypatch.setattr(recognise, "lower", lambda conv, *rest: lowered.append(conv) or lower(conv, *rest))
    parts = [nn.Conv2d(4, 4, 1) for _ in range(33)]
    native = deploy(nn.Sequential(*parts[:30], nn.Softplus(), *parts[30:]).eval(), backend="native")
    assert sum(isinstance(module, NativeProgram) for module in native) == 2
    assert len(lowered) <= 5 * 33
