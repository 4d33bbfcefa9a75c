"""Inputs that native programs do not support: torch runs, or there is a clear error; the result is never wrong."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dynaconv import DCDConv2d, deploy
from dynaconv.native import NativeProgram
from tests.messages import refuses
from tests.native.test_layers import randomise_heads


def native_and_torch() -> tuple[NativeProgram, nn.Module]:
    parts = (nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU6(), DCDConv2d(24, 40, 1), nn.ReLU())
    network = randomise_heads(nn.Sequential(*parts)).eval()
    native = deploy(network, backend="native")
    assert isinstance(native, NativeProgram)
    return native, deploy(network)


def assert_close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, check_stride=False)


def record_calls(native: NativeProgram, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that records for each later call whether the kernels ran it."""
    calls: list[bool] = []
    supports = native._supports

    def recorded(x: Tensor) -> bool:
        calls.append(supports(x))
        return calls[-1]

    monkeypatch.setattr(native, "_supports", recorded)
    return calls


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float64, torch.bfloat16, torch.complex64])
@torch.no_grad()
def test_other_types_are_what_they_are_in_torch(dtype: torch.dtype) -> None:
    native, want = native_and_torch()
    x = torch.ones(1, 3, 8, 8, dtype=dtype)
    messages = []
    for network in (native, want):
        with pytest.raises(RuntimeError, match="type") as error:
            network(x)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 1, 8, 8), (8, 8), (1, 3, 8), (1, 3, 8, 8, 1), (3, 9, 9, 0)])
@torch.no_grad()
def test_wrong_shapes_are_errors(shape: tuple[int, ...]) -> None:
    native, _ = native_and_torch()
    with pytest.raises((RuntimeError, ValueError)):
        native(torch.zeros(shape))


@torch.no_grad()
def test_a_single_image_without_a_batch_runs_in_torch() -> None:
    conv = nn.Conv2d(3, 8, 3).eval()
    x = torch.randn(3, 9, 9)
    assert_close(deploy(conv, backend="native")(x), conv(x))


@torch.no_grad()
def test_lazy_negation_is_seen() -> None:
    native, want = native_and_torch()
    x = torch.complex(torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)).conj().imag
    assert x.is_neg()
    assert_close(native(x), want(x))


@torch.no_grad()
def test_meta_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    native, want = native_and_torch()
    state = {name: value.clone() for name, value in native.state_dict().items()}
    native.to("meta")
    assert native(torch.zeros(2, 3, 8, 8, device="meta")).shape == (2, 40, 4, 4)
    with pytest.raises(RuntimeError):
        native(torch.zeros(2, 3, 8, 8))
    native.to_empty(device="cpu")
    native.load_state_dict(state)
    x = torch.randn(2, 3, 8, 8)
    calls = record_calls(native, monkeypatch)
    assert_close(native(x), want(x))
    assert calls == [True]


@torch.no_grad()
def test_a_change_of_type_changes_the_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    native, want = native_and_torch()
    x = torch.randn(2, 3, 8, 8)
    native.half().load_state_dict({name: value.half() for name, value in native.state_dict().items()})
    native.float()
    calls = record_calls(native, monkeypatch)
    assert_close(native(x), want.half().float()(x))
    assert calls == [True]


def test_trained_weights_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train mode trains the original; in eval mode the kernels use the trained weights."""
    native, _ = native_and_torch()
    native.requires_grad_().train()
    calls = record_calls(native, monkeypatch)
    x = torch.randn(2, 3, 8, 8)
    native(x).square().mean().backward()
    with torch.no_grad():
        for parameter in native.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad.sign()
    native.eval()
    assert native(x).requires_grad
    with torch.no_grad():
        assert_close(native(x), native.original(x))
    assert calls == [False, False, True]


# Torch's forward-mode AD scripts its decompositions.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_a_gradient_through_a_transform_is_right() -> None:
    native, want = native_and_torch()
    x = torch.randn(1, 3, 8, 8)

    def loss_of(network: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: network(x).square().sum()

    assert_close(torch.func.grad(loss_of(native))(x), torch.func.grad(loss_of(want))(x))
    tangent = torch.randn_like(x)
    derivatives = [torch.func.jvp(loss_of(network), (x,), (tangent,))[1] for network in (native, want)]
    assert_close(*derivatives)


@torch.no_grad()
def test_autocast_of_the_cpu_alone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    native, _ = native_and_torch()
    calls = record_calls(native, monkeypatch)
    x = torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        native(x)
    assert calls == [True]
    with torch.autocast("cpu", torch.bfloat16):
        assert native(x).dtype == torch.bfloat16
    assert calls == [True, False]


@torch.no_grad()
def test_images_without_end_are_errors() -> None:
    """Images expanded from one value take no memory, so they can have more pixels than fit into an index."""
    program = deploy(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)).eval(), backend="native")
    one = torch.zeros(1, 3, 1, 1)
    # 2^66 floats between the steps: 0 in 64-bit arithmetic.
    for shape in ((1, 3, 2**30, 2**30), (2**60, 3, 1, 1)):
        with refuses(RuntimeError):
            program(one.expand(shape))
    with pytest.raises(RuntimeError, match="memory"):
        program(one.expand(1, 3, 2**21, 2**21))


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2])
def test_too_little_memory_is_an_error_and_no_more(threads: int) -> None:
    """The output vector of a sample is small; the images between the steps are not."""
    timm = pytest.importorskip("timm")
    native = deploy(timm.create_model("static_resnet10", num_classes=3).eval(), backend="native")
    assert isinstance(native, NativeProgram)
    try:
        torch.set_num_threads(threads)
        for batch in (1, 4):
            with refuses(RuntimeError):
                native(torch.zeros(1, 3, 1, 1).expand(batch, 3, 2**18, 2**18))
        assert native(torch.zeros(2, 3, 32, 32)).isfinite().all()
    finally:
        torch.set_num_threads(1)


@torch.no_grad()
def test_an_empty_batch_of_a_network() -> None:
    timm = pytest.importorskip("timm")
    native = deploy(timm.create_model("dcd_resnet10", num_classes=7).eval(), backend="native")
    assert native(torch.zeros(0, 3, 32, 32)).shape == (0, 7)


@torch.no_grad()
def test_the_operator_refuses_what_the_module_does_not_pass() -> None:
    native, _ = native_and_torch()
    run = torch.ops.dynaconv.native_program
    x, constants, steps = torch.zeros(1, 3, 8, 8), native.constants, native.steps
    assert constants is not None
    assert steps is not None
    for args in (
        (x.double(), constants, steps),
        (x[0], constants, steps),
        (x, constants.double(), steps),
        (x, constants.repeat(2)[::2], steps),
        (x, constants[:-16], steps),
        (x, constants, steps[:-1]),
        (x, constants, steps.int()),
        (x, constants, steps[:0]),
        (x[:, :2], constants, steps),
    ):
        with refuses(RuntimeError):
            run(*args, native._out_channels, native.sizes)
    with refuses(RuntimeError):
        run(x, constants, steps, native._out_channels + 1, native.sizes)


def test_several_threads_at_once() -> None:
    """Each Python thread has its own buffers."""
    native, want = native_and_torch()
    images = [torch.randn(1, 3, 8 + index, 16) for index in range(6)]
    with torch.no_grad():
        wanted = [want(x) for x in images]
    wrong = []

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                if (native(images[index]) - wanted[index]).abs().max() > 1e-4:
                    wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(images))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
