"""Multiply-adds of a network's layers: as executed, and by the convention of the papers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dynaconv.measure.modules import call_hooks, example_input, is_dynamic
from dynaconv.ops import cheapest


@dataclass
class LayerWork:
    """The work of one layer in one forward pass of the network.

    Attributes:
        macs: Multiply-adds as executed, summed over the calls.
        output_bytes: Size of the outputs, summed over the calls.
        output_shape: Output shape of the last call; None if the layer did not return one tensor.
        input_shapes: Shape of each call's first argument; None if it is not a tensor.
        output_numels: Number of output elements of each call; 0 if it did not return one tensor.
    """

    macs: int = 0
    output_bytes: int = 0
    output_shape: tuple[int, ...] | None = None
    input_shapes: list[tuple[int, ...] | None] = field(default_factory=list)
    output_numels: list[int] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Number of calls of the layer."""
        return len(self.input_shapes)


class WorkRecorder:
    """Context manager that records every call of the given layers, in order of the first call.

    Attributes:
        work: Work by layer name, without the layers that were not called.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.work: dict[str, LayerWork] = {}
        self._names = names
        self._counter = FlopCounterMode(display=False)
        self._starts: list[int] = []
        self._hooks = call_hooks(names, self._before, self._after)

    @property
    def macs(self) -> int:
        """Multiply-adds of all operators that ran in the context."""
        return int(self._counter.get_total_flops()) // 2

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._starts.append(self.macs)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        work = self.work.setdefault(self._names[module], LayerWork())
        work.macs += self.macs - self._starts.pop()
        work.output_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(output))
        is_tensor = isinstance(output, Tensor)
        work.output_shape = tuple(output.shape) if is_tensor else None
        work.output_numels.append(output.numel() if is_tensor else 0)
        work.input_shapes.append(tuple(args[0].shape) if args and isinstance(args[0], Tensor) else None)

    def __enter__(self) -> WorkRecorder:
        self._counter.__enter__()  # type: ignore[no-untyped-call]
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._hooks.__exit__(*exc)
        self._counter.__exit__(*exc)  # type: ignore[no-untyped-call]


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of a module's output, also those inside lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def chosen_algorithm(layer: nn.Module, work: LayerWork) -> str | None:
    """Return the algorithm that a dynamic layer ran, or all of them, separated by commas, if its calls differed.

    Returns None for a layer without a choice of algorithm, and ``auto`` for a layer set to ``auto`` without a method
    ``algorithm_costs``.
    """
    algorithm = getattr(layer, "algorithm", None)
    if not is_dynamic(layer) or not isinstance(algorithm, str):
        return None
    costs = getattr(layer, "algorithm_costs", None)
    if algorithm != "auto" or costs is None or not work.calls:
        return algorithm
    chosen = [cheapest(costs(shape)) for shape in work.input_shapes if shape is not None]
    return ", ".join(dict.fromkeys(chosen)) or algorithm


def published_macs(layer: nn.Module, work: LayerWork) -> int:
    """Return the multiply-adds of a layer's calls by the convention of papers on dynamic convolution.

    They count the static convolution, the dynamic branch and the assembly of the kernel, whichever algorithm the layer
    runs. The static convolution is the number of outputs times the inputs per output. The flop counter measures the
    rest while the layer forms the kernel of each sample. A layer whose method has another cost, or whose kernel cannot
    be formed without running the convolution, has its own method ``published_macs(input_shape)``.

    Args:
        layer: A layer in eval mode. If it is not dynamic or has no kernel, its multiply-adds count as executed.
        work: The layer's calls.
    """
    if not is_dynamic(layer):
        return work.macs
    own = getattr(layer, "published_macs", None)
    kernel = own or getattr(layer, "kernel", None)
    if kernel is None or None in work.input_shapes:
        return work.macs
    if getattr(layer, "context_axis", None) is not None:
        # Its kernels are applied by mixing outputs; they are never formed.
        return work.macs
    if own is not None:
        return sum(int(own(shape)) for shape in work.input_shapes)
    total = 0
    for shape, outputs in zip(work.input_shapes, work.output_numels, strict=True):
        assert shape is not None
        sample = example_input(layer, (1, *shape[1:]))
        features = getattr(layer, "context_features", None)
        inputs = (sample,) if features is None else (sample, sample.new_zeros(1, features))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            taps = math.prod(layer.kernel(*inputs).shape[2:])  # type: ignore[operator]
        # A weight of a transposed convolution is multiplied once for each of the input's values.
        values = math.prod(shape) if getattr(layer, "transposed", False) else outputs
        total += values * taps + shape[0] * (int(counter.get_total_flops()) // 2)
    return total
