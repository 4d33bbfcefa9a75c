"""1x1 DCD with precomputed constants: the same function with fewer and larger operators.

The branch and the factors take about fifteen operators per layer, each too small for its overhead, and a graph runtime
cannot fuse the operators after a product with one matrix per sample. The measures, largest gain first:

- Lambda(x) and Phi(x), and so W(x), are affine in the branch's last hidden vector h. If R C_in C_out is small, one
  product with constants gives W(x) = W0 + sum_r h_r D_r, in place of the heads, P Phi Q^T and Lambda W0 (``kernel``).
- If these constants would be large and the output is wider than the input, W(x) is formed from Lambda W0 and
  [P Phi] Q^T, which costs less than Lambda and a sum on the wide output (``product``).
- Otherwise forming W(x) costs more than it saves. Then [P Phi, b] is the affine map, in which b costs nothing
  (``expand``). If this map is large, [Phi, 1] is the affine map (``mixed``), or Phi if b depends on the sample
  (``factors``).
- A constant channel carries a bias, and a constant hidden unit carries the small term under the square root. A constant
  factor of Lambda is part of W0, and zero offsets of maps are left out.
- For a batch of one, the product with W(x) adds the bias.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.branch import LENGTH_EPSILON, context_dtype
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch
from dynaconv.families.dcd.factors import activate_scale, required
from dynaconv.ops import Cost, Geometry, per_sample_conv, pool_context
from dynaconv.ops.cost import statically_true
from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.per_sample import is_channels_last

# The three sizes below were chosen with benchmarks/deploy.py on an x86-64 processor with AVX-512.
# Largest affine maps of W(x) and of P Phi, in elements, that cost less to read than the operators that they replace.
_KERNEL_NUMBERS = 150_000
_EXPAND_NUMBERS = 30_000
# Largest W(x), in elements, that is formed if its affine map is too large.
_PRODUCT_NUMBERS = 60_000
# Largest W(x), in elements, that an int8 network forms, chosen with benchmarks/export_latency.py on MobileNetV2.
_INT8_NUMBERS = 9_000
_POINT = Geometry((1, 1))
_FACTORED_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "sigmoid": (torch.sigmoid, 2.0),
    "hard_sigmoid": (lambda logits: F.relu6(logits + 3), 1 / 3),
}
"""Activations of Lambda as a function and a factor, which becomes part of W0."""


def can_prepare(layer: Any) -> bool:
    """Whether a deployed layer is 1x1 DCD with a residual of one block, and its branch has the dtype of W0."""
    return bool(
        layer.geometry == _POINT
        and layer.sizes.form == "channel"
        and layer.sizes.blocks == 1
        and layer.p is not None
        and layer.weight.dtype == layer.branch.squeeze.weight.dtype
    )


def form_of(layer: Any, *, int8: bool = False) -> str:
    """Return the form of a layer, as described above: ``kernel``, ``product``, ``expand``, ``mixed`` or ``factors``.

    Args:
        layer: A layer for which `can_prepare` holds.
        int8: Choose for a network that will be quantised. A pass over a wide feature map then costs more than forming
            W(x), which can be quantised at run time. Other layers keep W0, Q and P as kernels of their own, whose
            weights are int8 in the file.
    """
    out_channels, in_channels = layer.weight.shape[:2]
    if int8 and (out_channels <= in_channels or in_channels * out_channels > _INT8_NUMBERS):
        return "factors" if _has_sample_bias(layer) else "mixed"
    affine = not layer.has_scale or layer.scale_activation == "affine"
    units = len(layer.branch.squeeze.weight) + _has_constant_unit(layer.branch) + 1
    if affine and units * out_channels * in_channels <= _KERNEL_NUMBERS:
        return "kernel"
    if in_channels * out_channels <= _PRODUCT_NUMBERS and (out_channels > in_channels or not affine):
        return "product"
    if units * out_channels * (layer.p.shape[1] + 1) <= _EXPAND_NUMBERS:
        return "expand"
    return "factors" if _has_sample_bias(layer) else "mixed"


def prepared_cost(layer: Any, input_shape: tuple[int, ...]) -> Cost:
    """Return the cost of a prepared layer after the hidden vector, comparable to `dcd_costs` plus `heads_cost`."""
    batch, in_channels, height, width = input_shape
    out_channels, latent = layer.p.shape
    units, pixels, form = len(layer.branch.squeeze.weight) + 2, batch * height * width, form_of(layer)
    entries = out_channels * in_channels
    product = Cost(dense=pixels * entries) if batch == 1 else Cost(batched=pixels * entries)
    by_kernel = product + Cost(moved=batch * entries, calls=3)
    by_static = Cost(dense=pixels * (entries + latent * in_channels), moved=4.0 * pixels * out_channels, calls=5)
    if form == "kernel":
        return by_kernel + Cost(dense=batch * units * entries, moved=units * entries)
    expand = out_channels * (latent + 1)
    if form == "product":
        forming = Cost(dense=batch * units * expand, batched=batch * latent * entries, moved=units * expand, calls=4)
        return by_kernel + forming
    if form == "expand":
        forming = Cost(dense=batch * units * expand, moved=units * expand)
    else:
        forming = Cost(dense=batch * units * latent**2, batched=batch * out_channels * latent**2, calls=1)
    return by_static + forming + Cost(batched=pixels * expand)


def heads_cost(layer: Any, batch: int) -> Cost:
    """Return the cost of the heads of a layer that is not prepared, which `dcd_costs` does not include."""
    units = len(layer.branch.squeeze.weight)
    rows = sum(len(head.weight) for head in layer.branch.heads.values())
    # The length of the hidden vector takes three more operators, and reshaping the coefficients takes one.
    calls = len(layer.branch.heads) + 3 * layer.branch.unit + 1
    return Cost(dense=batch * units * rows, moved=units * rows, calls=calls)


class PreparedDCD(nn.Module):
    """Runs a deployed 1x1 DCD layer with precomputed constants, which are not in its state dict.

    Args:
        layer: The layer, a `DeployedDCDConv` for which `can_prepare` holds.
        convolves: Whether the layer is for the export of a single sample, where each product is a convolution, which
            adds a bias at no cost.
        int8: See `form_of`. The products with one matrix per sample then have channels last, as the layout of a
            runtime's int8 convolutions.
    """

    static: Tensor
    static_bias: Tensor
    p: Tensor
    q: Tensor
    q_bias: Tensor

    def __init__(self, layer: Any, *, convolves: bool = False, int8: bool = False) -> None:
        super().__init__()
        self.context_size = layer.context_size
        self.scale_activation = layer.scale_activation if layer.has_scale else "none"
        self.scaled_bias = layer.scaled_bias is not None
        parts = _coefficient_maps(layer)
        self.branch = _HiddenBranch(layer.branch)
        self.out_channels, self.in_channels = layer.weight.shape[:2]
        self.latent = required(layer.p).shape[1]
        self.form = form_of(layer, int8=int8)
        self.multiply = _multiply_rows if int8 else _multiply_channels
        # If the output is wider than the input, an input channel of ones is cheaper than the sum with a bias. A bias
        # that is the same for every sample costs nothing if a convolution follows.
        widens = self.out_channels > self.in_channels
        self.appends_ones = not convolves and widens and _has_sample_bias(layer) and self.form in ("kernel", "product")
        build = {"kernel": self._build_kernel, "product": self._build_product}.get(self.form, self._build_factors)
        dtype = layer.branch.head("fusion").weight.dtype
        _, gain = _FACTORED_ACTIVATIONS.get(self.scale_activation, (None, 1.0))
        for name, value in build(parts, layer).items():
            if value is not None:
                value = (value * gain if name in ("static", "static_bias") else value).to(dtype).contiguous()
            self.register_buffer(name, value, persistent=False)
        self.to(layer.weight.device).eval()
        for module in self.branch.modules():
            for name, parameter in [*module.named_parameters(recurse=False)]:
                delattr(module, name)
                module.register_buffer(name, parameter.detach(), persistent=False)

    def _build_kernel(self, parts: dict[str, Tensor], layer: Any) -> dict[str, Tensor | None]:
        """Return the affine map from h to W(x); the bias is another column or, without `appends_ones`, another map."""
        weight = layer.weight.detach().double().flatten(1)
        p, q = (required(part).detach().double() for part in (layer.p, layer.q))
        columns = parts["fusion"].T.reshape(-1, self.latent, self.latent)
        kernels = p @ columns @ q.T + parts["scale"].T[:, :, None] * weight
        biases = parts["bias"].T
        if self.appends_ones:
            kernels = torch.cat((kernels, biases[:, :, None]), 2)
        constants = _affine("kernel", kernels.flatten(1).T)
        return constants if self.appends_ones else constants | _affine("bias", parts["bias"])

    def _build_product(self, parts: dict[str, Tensor], layer: Any) -> dict[str, Tensor | None]:
        """Return W0, Q^T and the affine maps from h to Lambda and P Phi, with the bias as in `_build_kernel`."""
        weight = layer.weight.detach().double().flatten(1)
        p, q = (required(part).detach().double() for part in (layer.p, layer.q))
        expand, q_transposed = p @ parts["fusion"].T.reshape(-1, self.latent, self.latent), q.T
        constants = _affine("scale", parts["scale"])
        if self.appends_ones:
            own = weight.new_zeros(self.out_channels) if not self.scaled_bias else required(layer.scaled_bias).detach()
            weight = torch.cat((weight, own.double()[:, None]), 1)
            expand = torch.cat((expand, parts["bias"].T[:, :, None]), 2)
            q_transposed = F.pad(q_transposed, (0, 1, 0, 1))
            q_transposed[-1, -1] = 1
        else:
            constants |= _affine("bias", parts["bias"])
            if self.scaled_bias:
                constants["static_bias"] = required(layer.scaled_bias).detach()
        return constants | {"static": weight, "q": q_transposed} | _affine("expand", expand.flatten(1).T)

    def _build_factors(self, parts: dict[str, Tensor], layer: Any) -> dict[str, Tensor | None]:
        """Return W0, Q^T and P, and the affine maps from h to Lambda, to [P Phi, b], [Phi, 1] or Phi, and to b."""
        p, q = (required(part).detach().double() for part in (layer.p, layer.q))
        constants = {"static": layer.weight.detach()} | _affine("scale", parts["scale"])
        if self.scaled_bias:
            constants["static_bias"] = required(layer.scaled_bias).detach()
        q_transposed = q.T[:, :, None, None]
        fusions = parts["fusion"].T.reshape(-1, self.latent, self.latent)
        if self.form == "factors":
            constants |= {"p": p} | _affine("fusion", parts["fusion"]) | _affine("bias", parts["bias"])
            return constants | {"q": q_transposed}
        if self.form == "expand":
            expand = torch.cat((p @ fusions, parts["bias"].T[:, :, None]), 2)
            constants |= _affine("expand", expand.flatten(1).T)
        else:
            fusions = F.pad(fusions, (0, 1, 0, 1))
            fusions[-1, -1, -1] = 1
            constants |= {"p": torch.cat((p, parts["bias"][:, -1:]), 1)} | _affine("fusion", fusions.flatten(1).T)
        one = q.new_zeros(self.latent + 1)
        one[-1] = 1
        return constants | {"q": F.pad(q_transposed, (0, 0, 0, 0, 0, 0, 0, 1)), "q_bias": one}

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """As `DeployedDCDConv.forward`, with a mask ``(B, 1, *sizes)`` in bool."""
        by_kernel = self.form in ("kernel", "product")
        if context is None and not by_kernel and self.context_size == 1 and mask is None:
            context = _pooled(x)
        elif context is None:
            context = pool_context(x, self.context_size, context_dtype(x.dtype), mask)
        hidden = self.branch.hidden(context.to(context_dtype(x.dtype)))
        if by_kernel:
            return self._by_kernel(x, hidden)
        return self._by_factors(x, hidden)

    def _by_kernel(self, x: Tensor, hidden: Tensor) -> Tensor:
        if self.appends_ones:
            x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
        scale = None
        if self.form == "kernel":
            kernel = self._map("kernel", hidden).reshape(-1, self.out_channels, self.in_channels + self.appends_ones)
        else:
            scale, expand = self._scale(hidden), self._map("expand", hidden)
            residual = torch.mm(expand.reshape(-1, self.q.shape[0]), self.q).reshape(-1, *self.static.shape)
            static = self.static
            kernel = static + residual if scale is None else torch.addcmul(residual, static, scale[..., None])
        if self.appends_ones:
            return self.multiply(kernel, x)
        return self.multiply(kernel, x, self._bias(hidden, scale))

    def _bias(self, hidden: Tensor, scale: Tensor | None) -> Tensor:
        """Return the bias, ``(B, C_out)``, or ``(C_out,)`` if it does not depend on the sample."""
        bias = self._map("bias", hidden)
        return bias if scale is None or not self.scaled_bias else bias + self.static_bias * scale

    def _by_factors(self, x: Tensor, hidden: Tensor) -> Tensor:
        static = F.conv2d(x, self.static.to(x.dtype), self.static_bias.to(x.dtype) if self.scaled_bias else None)
        scale = self._scale(hidden)
        if scale is not None:
            static = static * scale[..., None, None].to(x.dtype)
        latent = F.conv2d(x, self.q.to(x.dtype), None if self.form == "factors" else self.q_bias.to(x.dtype))
        if self.form == "expand":
            expand = self._map("expand", hidden).reshape(-1, self.out_channels, self.latent + 1)
            return static + self.multiply(expand, latent)
        if self.form == "mixed":
            fusion = self._map("fusion", hidden).reshape(-1, self.latent + 1, self.latent + 1)
            return static + self._expanded(fusion, latent)
        fusion = self._map("fusion", hidden).reshape(-1, self.latent, self.latent)
        return add_bias(static + self._expanded(fusion, latent), self._map("bias", hidden))

    def _expanded(self, fusion: Tensor, latent: Tensor) -> Tensor:
        """Return P Phi z for latent features z, in the order that costs least."""
        if is_exporting():
            return F.conv2d(self.multiply(fusion, latent), self.p[:, :, None, None].to(latent.dtype))
        return self.multiply(torch.matmul(self.p, fusion), latent)

    def _scale(self, hidden: Tensor) -> Tensor | None:
        """Return the factor of `static`, ``(B, C_out)`` or ``(C_out,)``; None if W(x) has no Lambda."""
        if self.scale_activation == "none":
            return None
        scale = self._map("scale", hidden)
        if self.scale_activation in _FACTORED_ACTIVATIONS:
            return _FACTORED_ACTIVATIONS[self.scale_activation][0](scale)
        return scale if self.scale_activation == "affine" else activate_scale(scale, self.scale_activation)

    def _map(self, name: str, hidden: Tensor) -> Tensor:
        """Apply the affine map with this name, ``(B, R)`` to ``(B, N)``, or to ``(N,)`` if the map is constant."""
        offset, matrix = getattr(self, f"{name}_offset"), getattr(self, f"{name}_matrix")
        return offset if matrix is None else F.linear(hidden, matrix, offset)


class _HiddenBranch(DeployedBranch):
    """A copy of a layer's branch without its heads.

    Args:
        branch: The branch to copy.
    """

    def __init__(self, branch: DeployedBranch) -> None:
        first, constant = branch.squeeze, _has_constant_unit(branch)
        assert first is not None
        weight: Tensor = first.weight
        bias: Tensor | None = first.bias
        if constant:
            # The square of this constant unit is the small term of the squared length.
            weight, bias = F.pad(weight, (0, 0, 0, 1)), F.pad(first.constant, (0, 1), value=LENGTH_EPSILON**0.5)
        super().__init__(
            {},
            squeeze=AffineMap(weight, bias),
            gate=None if branch.gate is None else AffineMap(branch.gate.weight),
            activation=branch.activation,
            unit=branch.unit and not constant,
            normalise=branch.normalise,
        )
        self.has_constant = constant

    def hidden(self, context: Tensor) -> Tensor:
        """Context ``(B, features)`` to ``(B, units)``."""
        hidden = super().hidden(context)
        if not self.has_constant:
            return hidden
        length: Tensor = torch.linalg.vector_norm(hidden, dim=1, keepdim=True)
        return hidden / length


def _coefficient_maps(layer: Any) -> dict[str, Tensor]:
    """Return each coefficient's affine map of the hidden vector, ``(N, units + 1)``, with the constant term last."""
    branch = layer.branch
    extra = int(_has_constant_unit(branch))

    def head(name: str) -> Tensor:
        affine = branch.head(name)
        return torch.cat((F.pad(affine.weight.double(), (0, extra)), affine.constant.double()[:, None]), 1)

    fusion = head("fusion")
    scale, bias = (fusion.new_zeros(layer.out_channels, fusion.shape[1]) for _ in range(2))
    scale[:, -1] = 1
    if layer.bias is not None:
        bias[:, -1] = layer.bias
    return {
        "scale": head("scale") if layer.has_scale else scale,
        "fusion": fusion,
        "bias": head("shift") if "shift" in branch.heads else bias,
    }


def _affine(name: str, part: Tensor) -> dict[str, Tensor | None]:
    """Return the constants of `PreparedDCD._map`.

    The matrix is None if the map does not depend on the hidden vector, else the offset is None if it is zero.
    """
    matrix, offset = part[:, :-1], part[:, -1]
    varies = bool(matrix.any())
    return {
        f"{name}_matrix": matrix if varies else None,
        f"{name}_offset": None if varies and not offset.any() else offset,
    }


def _has_sample_bias(layer: Any) -> bool:
    """Whether the bias depends on the sample."""
    heads = layer.branch.heads
    return layer.scaled_bias is not None or ("shift" in heads and bool(heads["shift"].weight.any()))


def _has_constant_unit(branch: DeployedBranch) -> bool:
    """Whether a constant unit can be the small term of the squared length: the activation must not change it."""
    return branch.unit and branch.activation in ("relu", "relu6")


def _multiply_channels(matrix: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply the channels of each pixel by the sample's matrix: ``(B, M, N)`` and ``(B, N, H, W)``.

    A map that does not depend on the hidden vector gives one matrix for all samples, ``(1, M, N)``, and one bias for
    all, ``(M,)``.
    """
    if _is_sample(x):
        return _multiply_sample(matrix.to(x.dtype), x, None if bias is None else bias.flatten().to(x.dtype))
    out = per_sample_conv(x, matrix.expand(x.shape[0], -1, -1)[..., None, None].to(x.dtype), _POINT)
    return out if bias is None else add_bias(out, bias)


def _multiply_sample(matrix: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """As `_multiply_channels` for one sample, by one operator that adds the bias ``(M,)``."""
    if is_exporting():
        return F.conv2d(x, matrix.reshape(-1, x.shape[1], 1, 1), bias)
    matrix = matrix.reshape(-1, x.shape[1])
    if is_channels_last(x):
        rows = x.movedim(1, -1).reshape(-1, x.shape[1])
        return F.linear(rows, matrix, bias).reshape(1, *x.shape[2:], -1).movedim(-1, 1)
    columns = x.reshape(x.shape[1], -1)
    out = torch.mm(matrix, columns) if bias is None else torch.addmm(bias[:, None], matrix, columns)
    return out.reshape(1, -1, *x.shape[2:])


def _is_sample(x: Tensor) -> bool:
    """Whether there is one sample, also if sizes are symbolic."""
    return statically_true(x.shape[0] == 1)


def _multiply_rows(matrix: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `_multiply_channels`, as a product of rows of channels; no batch size is fixed during export."""
    rows = x.movedim(1, -1)
    product = torch.matmul(rows.flatten(1, 2), matrix.transpose(1, 2).to(x.dtype))
    if bias is not None:
        product = product + (bias if bias.dim() == 1 else bias[:, None]).to(x.dtype)
    return product.reshape(*rows.shape[:3], matrix.shape[1]).movedim(-1, 1)


def _pooled(x: Tensor) -> Tensor:
    """Return the mean over pixels, ``(B, C)``, by an operator that pools in any memory format."""
    return x.mean((2, 3), keepdim=True, dtype=context_dtype(x.dtype)).flatten(1)
