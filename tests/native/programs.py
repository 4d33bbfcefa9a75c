"""Runs native programs with other fields of their steps, and with other numbers of threads."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.native.steps import FIELDS


@torch.no_grad()
def run_steps(native: Any, x: Tensor, steps: Tensor, out_channels: int | None = None) -> Tensor:
    """Run a program with other steps; the operator raises RuntimeError if they are damaged."""
    channels = native._out_channels if out_channels is None else out_channels
    out: Tensor = torch.ops.dynaconv.native_program(x, native.constants, steps, channels, native.sizes)
    return out


def with_fields(native: Any, step: int, fields: Mapping[str, int]) -> Tensor:
    """Return the steps of a program with other fields in one of them."""
    steps: Tensor = native.steps.clone()
    for name, value in fields.items():
        steps.view(-1, len(FIELDS))[step, FIELDS.index(name)] = value
    return steps


@torch.no_grad()
def check_threads(
    native: nn.Module, x: Tensor, threads: Sequence[int] = (2,), batches: Sequence[int] = (1, 2, 5)
) -> None:
    """Compare batches on several threads with single images on one, bit by bit."""
    want = torch.cat([native(image[None]) for image in x])
    try:
        for count in threads:
            torch.set_num_threads(count)
            for batch in batches:
                torch.testing.assert_close(native(x[:batch]), want[:batch], rtol=0, atol=0)
    finally:
        torch.set_num_threads(1)
