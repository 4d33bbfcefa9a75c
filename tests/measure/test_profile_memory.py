"""Activation memory against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynaconv.measure.profile import profile

FLOAT = 4


def test_a_chain_holds_the_input_and_the_output_of_a_layer_at_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 2, 1))
    found = profile(model, (2, 3, 5, 7))
    pixels = 2 * 5 * 7 * FLOAT
    assert [layer.output_bytes for layer in found.layers] == [8 * pixels, 16 * pixels, 2 * pixels]
    assert [layer.peak_bytes for layer in found.layers] == [8 * pixels, 16 * pixels, 2 * pixels]
    # The network's input belongs to the caller; the first output is held while the second is computed.
    assert (found.peak_bytes, found.peak_layer) == ((8 + 16) * pixels, "1")


def test_what_a_skip_connection_holds_is_in_the_peak() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return x + self.body(x)

    found = profile(Skip(), (3, 6, 6))
    # While the second convolution of the body runs: x, its input and its output. The sum holds no more.
    assert found.peak_bytes == 3 * 8 * 36 * FLOAT
    assert found.peak_layer == "body.1"


def test_temporary_tensors_of_a_layer_count_while_it_runs() -> None:
    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            wide = torch.cat([x] * 10, dim=1)
            return wide.mean(dim=1, keepdim=True)

    found = profile(nn.Sequential(Wide(), nn.ReLU()), (1, 4, 4))
    wide, relu = found.layers
    assert (wide.output_bytes, wide.peak_bytes) == (16 * FLOAT, 11 * 16 * FLOAT)
    assert (relu.output_bytes, relu.peak_bytes) == (16 * FLOAT, 16 * FLOAT)
    assert found.peak_layer == "0"


def test_a_view_and_work_in_place_hold_nothing_more() -> None:
    found = profile(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.Flatten()), (3, 4, 4))
    assert [layer.peak_bytes for layer in found.layers] == [8 * 16 * FLOAT, 0, 0]
    assert [layer.output_bytes for layer in found.layers] == [8 * 16 * FLOAT] * 3
    assert found.peak_bytes == 8 * 16 * FLOAT


def test_parameters_buffers_and_the_input_are_no_activations() -> None:
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(100))
            self.register_buffer("table", torch.ones(100))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return self.weight.detach().view(10, 10), self.get_buffer("table")[:3], x.flatten()

    found = profile(Returns(), (3, 4, 4))
    assert found.peak_bytes == 0
    assert found.saved_bytes == 0


def test_what_training_keeps_is_what_the_backward_pass_reads() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    image, hidden = 2 * 4 * 64 * FLOAT, 2 * 8 * 64 * FLOAT
    statistics = 2 * 8 * FLOAT
    # Convolution: its input. Batch norm: its input and the batch's mean and variance. ReLU: its output, which is the
    # storage that the linear layer keeps as its input.
    assert profile(model, (2, 4, 8, 8)).saved_bytes == image + hidden + statistics + hidden
    # A frozen stem keeps nothing; the norm behind it is still trained.
    model[0].requires_grad_(False)
    assert profile(model, (2, 4, 8, 8)).saved_bytes == hidden + statistics + hidden
    assert profile(model.requires_grad_(False), (2, 4, 8, 8)).saved_bytes == 0


def test_a_network_that_does_not_train_on_this_input_says_why() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    found = profile(model, (3, 4, 4))
    assert found.saved_bytes is None
    assert "more than 1 value per channel" in str(found.saved_refusal)
    assert profile(model, (2, 3, 4, 4)).saved_refusal is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_does_not_matter(context: type[torch.no_grad]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    want = profile(model, (3, 4, 4))
    with context():
        assert profile(model, (3, 4, 4)) == want
    assert want.saved_bytes == (3 + 4) * 16 * FLOAT
