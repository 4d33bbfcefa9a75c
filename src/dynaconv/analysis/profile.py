"""Parameters and multiply-adds of a network, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One leaf layer; a dynamic layer counts as one, with its branch.

    Attributes:
        name: Dotted path in the model; the empty string is the model itself.
        kind: Class name.
        params: Number of parameters. Those shared with an earlier layer count there, and not again here.
        macs: Multiply-adds of one forward pass, summed over the calls when the layer is used more than once.
        output_shape: Of the last call, batch included; None when the layer does not return one tensor.
        calls: How often the forward pass used the layer.
    """

    name: str
    kind: str
    params: int
    macs: int
    output_shape: tuple[int, ...] | None
    calls: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What `profile` found.

    Attributes:
        params: Number of parameters of the whole model, shared ones once.
        macs: Multiply-adds of one forward pass at `input_size`.
        layers: In the order of the first call, layers the forward pass does not reach last.
        input_size: (B, C, H, W).
    """

    params: int
    macs: int
    layers: tuple[LayerProfile, ...]
    input_size: tuple[int, int, int, int]

    def table(self) -> Table:
        """The layers as a rich table, with the totals in its footer."""
        from rich.table import Table

        size = " x ".join(str(n) for n in self.input_size)
        table = Table(title=f"Input {size}", show_footer=True, caption="MAdds as executed: convolutions and products.")
        macs = self.macs - sum(layer.macs for layer in self.layers)
        params = self.params - sum(layer.params for layer in self.layers)
        table.add_column("layer", footer="total", overflow="fold")
        table.add_column("kind")
        table.add_column("output", justify="right")
        table.add_column("params", footer=f"{self.params:,}", justify="right")
        table.add_column("MAdds", footer=f"{self.macs:,}", justify="right")
        for layer in self.layers:
            shape = "" if layer.output_shape is None else " x ".join(str(n) for n in layer.output_shape)
            table.add_row(layer.name or "(model)", layer.kind, shape, f"{layer.params:,}", f"{layer.macs:,}")
        if macs or params:
            table.add_row("(outside any layer)", "", "", f"{params:,}", f"{macs:,}")
        return table


def profile(model: nn.Module, input_size: Sequence[int]) -> Profile:
    """Count parameters and multiply-adds of one forward pass in eval mode.

    A multiply-add is half a flop of `torch.utils.flop_counter`: convolutions and matrix products count, element-wise
    work, normalisation and pooling do not. What is counted is what is executed. A dynamic layer therefore counts with
    the algorithm it runs at this size, its branch included, while papers on dynamic convolution count the static
    convolution, the branch and the assembly of the kernel, whichever way it is run.

    Args:
        model: Left as it was: training mode, buffers, hooks and random state.
        input_size: (C, H, W) for a batch of one, or (B, C, H, W).

    Raises:
        ValueError: The size is not three or four positive integers, or the model does not accept it.
    """
    size = checked_size(input_size)
    x = _example_input(model, size)
    units = dict(_units(model))
    recorder = _Recorder({module: name for name, module in units.items()})
    counter = FlopCounterMode(display=False)
    recorder.counter = counter
    with eval_mode(model), torch.no_grad(), recorder, counter:
        try:
            model(x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            cause = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"{type(model).__name__} does not accept an input of size {size}: {cause[0]}") from error
    seen: set[int] = set()
    order = [*recorder.macs, *(name for name in units if name not in recorder.macs)]
    layers = tuple(
        LayerProfile(
            name=name,
            kind=type(units[name]).__name__,
            params=_new_parameters(units[name], seen),
            macs=recorder.macs.get(name, 0),
            output_shape=recorder.shapes.get(name),
            calls=recorder.calls.get(name, 0),
        )
        for name in order
    )
    params = sum(p.numel() for p in model.parameters())
    return Profile(params=params, macs=counter.get_total_flops() // 2, layers=layers, input_size=size)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule has the mode it had, also where they differ."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def is_dynamic(module: nn.Module) -> bool:
    """Whether the module answers `coefficients(x)`, as every dynamic layer does."""
    return callable(getattr(module, "coefficients", None))


class _Recorder:
    """Hooks on layers that read the flop counter before and after each call."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        self.names = names
        self.counter: FlopCounterMode | None = None
        self.macs: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.calls: dict[str, int] = {}
        self._starts: list[int] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def _total(self) -> int:
        assert self.counter is not None
        return int(self.counter.get_total_flops())

    def _before(self, module: nn.Module, args: Any) -> None:
        self._starts.append(self._total())

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        name = self.names[module]
        self.macs[name] = self.macs.get(name, 0) + (self._total() - self._starts.pop()) // 2
        self.calls[name] = self.calls.get(name, 0) + 1
        if isinstance(output, Tensor):
            self.shapes[name] = tuple(output.shape)

    def __enter__(self) -> _Recorder:
        for module in self.names:
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()


def _units(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Leaf layers in order of registration; a dynamic layer is one, whatever it is made of."""
    seen: set[nn.Module] = set()
    stack = [("", model)]
    while stack:
        name, module = stack.pop()
        if module in seen:
            continue
        seen.add(module)
        children = list(module.named_children())
        if is_dynamic(module) or not children:
            yield name, module
            continue
        stack.extend((f"{name}.{child}" if name else child, sub) for child, sub in reversed(children))


def _new_parameters(module: nn.Module, seen: set[int]) -> int:
    fresh = [p for p in module.parameters() if id(p) not in seen]
    seen.update(id(p) for p in fresh)
    return sum(p.numel() for p in fresh)


def checked_size(input_size: Sequence[int]) -> tuple[int, int, int, int]:
    """(B, C, H, W) from a size with or without the batch; ValueError for anything else."""
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in input_size)
    size = tuple(input_size)
    if len(size) not in (3, 4) or not whole:
        raise ValueError(f"`input_size` is (C, H, W) or (B, C, H, W), positive integers; got {size}.")
    batch, channels, height, width = (1, *size) if len(size) == 3 else size
    return batch, channels, height, width


def _example_input(model: nn.Module, size: tuple[int, int, int, int]) -> Tensor:
    """Zeros on the device and in the dtype of the model's first floating-point parameter."""
    for tensor in model.parameters():
        if tensor.is_floating_point():
            return torch.zeros(size, device=tensor.device, dtype=tensor.dtype)
    return torch.zeros(size)
