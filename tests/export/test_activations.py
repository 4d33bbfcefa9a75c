"""Clipping activations of a traced network."""

import torch
from torch import Tensor, nn

from dynaconv.export._activations import clip_once


def _traced(module: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(module.eval(), (torch.randn(2, 3, 5, 4) * 9,))


def _clips(program: torch.export.ExportedProgram) -> int:
    return sum(str(node.target) == "dynaconv.clip.default" for node in program.graph.nodes)


class _Shared(nn.Module):
    """An in-place activation whose input is read again, as in networks with pre-activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return nn.functional.relu6(y, inplace=True) + y


def test_clips_compute_what_the_activations_compute() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(inplace=True), nn.Hardtanh(-0.5, 2.0), nn.ReLU6())
    program, x = _traced(network), torch.randn(2, 3, 5, 4) * 9
    clip_once(program)
    assert _clips(program) == 3
    assert torch.equal(program.module()(x), network(x))


def test_an_activation_in_place_on_a_tensor_read_again_stays() -> None:
    network = _Shared()
    program, x = _traced(network), torch.randn(2, 3, 5, 4) * 9
    clip_once(program)
    assert _clips(program) == 0
    assert torch.equal(program.module()(x), network(x))


def test_an_activation_in_place_on_the_input_stays() -> None:
    program = _traced(nn.ReLU6(inplace=True))
    clip_once(program)
    assert _clips(program) == 0
