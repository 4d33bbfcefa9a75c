"""One step of a native program, such as a convolution, with the fields that the compiled library reads."""

import dataclasses
from dataclasses import dataclass

from torch import Tensor

FORMAT = 4
"""Format of programs in files: ``kFormat`` in ``csrc/program.h``, which says when to raise it."""
DENSE, DEPTHWISE, MAX_POOL, MEAN, SCALE, NORM = 0, 1, 2, 3, 4, 5
ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2, "silu": 3, "gelu": 4, "hardswish": 5}
ALGORITHMS = {"auto": 0, "kernel": 1, "factored": 2}
BRANCH_ACTIVATIONS = {"relu": 0, "relu6": 1, "silu": 2, "gelu": 3, "hardswish": 4, "gate": 5}
PRECISIONS = {"float32": 0, "bf16": 1, "int8": 2}
SCALE_ACTIVATIONS = {"affine": 0, "hard_sigmoid": 1, "sigmoid": 2, "tanh": 3}


class UnsupportedError(Exception):
    """Native programs do not support a module; the message is the reason."""


@dataclass(kw_only=True)
class Step:
    """``Step`` of ``csrc/program.h``, with the same names and order; a tensor becomes its offset in the constants."""

    kind: int
    source: int = 0
    target: int = 0
    residual: int = -1
    in_channels: int
    out_channels: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    pad_top: int
    pad_left: int
    pad_bottom: int
    pad_right: int
    activation: int = 0
    fused: int = 0
    weight: Tensor | None = None
    bias: Tensor | None = None
    groups: int = 1
    precision: int = 0
    weight_scale: Tensor | None = None
    q_scale: Tensor | None = None
    dynamic: int = 0
    algorithm: int = 0
    latent: int = 0
    p: Tensor | None = None
    q: Tensor | None = None
    q_rows: Tensor | None = None
    scaled_bias: Tensor | None = None
    context_size: int = 1
    normalise: int = 0
    hidden: int = 1
    squeeze: Tensor | None = None
    squeeze_bias: Tensor | None = None
    hidden_norm: Tensor | None = None
    branch_activation: int = 0
    gate: Tensor | None = None
    unit: int = 0
    heads: Tensor | None = None
    heads_bias: Tensor | None = None
    has_scale: int = 0
    scale_activation: int = 0
    has_shift: int = 0
    kernels: int = 1
    softmax: int = 0
    static_kernel: int = 0
    biases: Tensor | None = None
    has_channel: int = 0
    has_spatial: int = 0
    cells: Tensor | None = None
    num_cells: int = 0
    cell_out: int = 1
    cell_in: int = 1
    cell_h: int = 1
    cell_w: int = 1
    blend: Tensor | None = None
    channel_scale: Tensor | None = None

    @property
    def is_mixture(self) -> bool:
        """Whether its kernel is a weighted sum, or has factors along its channels or taps; as in ``csrc/layers.h``."""
        return bool(self.dynamic and (self.kernels > 1 or self.has_channel or self.has_spatial))

    @property
    def resize(self) -> tuple[int, int, int, int]:
        """Offset and stride of each axis: n pixels become ``(n + offset) // stride + 1``, or 1 if ``stride`` is 0."""
        if self.kind == MEAN:
            return 0, 0, 0, 0
        height = self.pad_top + self.pad_bottom - self.dilation_h * (self.kernel_h - 1) - 1
        width = self.pad_left + self.pad_right - self.dilation_w * (self.kernel_w - 1) - 1
        return height, self.stride_h, width, self.stride_w


FIELDS = tuple(field.name for field in dataclasses.fields(Step))
