"""1x1 DCD layers as a graph runtime computes them fastest: fewer and larger operators for the same function.

A runtime starts some fifteen operators for the branch and the factors of one such layer, each too small to be worth its
start, and cannot fuse what follows a product with a matrix a sample. What helps, in the order of what it gains:

- Lambda(x) and Phi(x), and so W(x), are affine in the branch's last hidden vector h. Where R C_in C_out is small, one
  product with constants gives W(x) = W0 + sum_r h_r D_r at once, in place of the heads, P Phi Q^T and Lambda W0.
- Where these constants would be many and the output is wider than the input, W(x) is put together from Lambda W0 and
  [P Phi] Q^T, which costs less than Lambda and a sum on the wide output.
- Elsewhere W(x) would cost more than it saves: there [P Phi, b] is the affine map, and b costs nothing; or, where that
  is large, [Phi, 1].
- A channel, or a hidden unit, that is always the same number carries a bias, or the small term under a root.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.conversion.stand_in import CONV2D_ATTRIBUTES, StandIn
from dynaconv.conversion.swap import all_names, put
from dynaconv.deployment.norm_pairs import has_hooks
from dynaconv.families.contract.affine import add_bias
from dynaconv.families.contract.branch import LENGTH_EPSILON
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch
from dynaconv.families.dcd.core import activate_scale
from dynaconv.families.dcd.deployed import DeployedDCDConv2d
from dynaconv.families.dcd.factors import required
from dynaconv.native import NativeProgram
from dynaconv.ops import Geometry, pool_context

# Numbers in the affine map of a whole kernel, and of P Phi, up to which reading them costs less than what they replace.
_KERNEL_NUMBERS = 150_000
_EXPAND_NUMBERS = 30_000
# Entries of W(x) up to which it is put together where its affine map is too large.
_PRODUCT_NUMBERS = 60_000


def in_runtime_form(network: nn.Module, *, channels_last: bool) -> nn.Module:
    """A copy of a network whose 1x1 DCD layers are of `RuntimeDCD`; the network itself where it has none.

    What native programs replaced stays: it is not written.

    Args:
        network: Its dynamic layers in their deployed form.
        channels_last: Whether the runtime keeps features that way, so that a product over rows of pixels costs no copy.
    """
    if not _layers(network):
        return network
    network = copy.deepcopy(network)
    for layer, paths in _layers(network).items():
        form = RuntimeDCD(layer, channels_last=channels_last).eval().requires_grad_(False)
        if paths == [""]:
            return form
        put(network, paths, form)
    return network


def _layers(network: nn.Module) -> dict[DeployedDCDConv2d, list[str]]:
    programs = [module for module in network.modules() if isinstance(module, NativeProgram)]
    replaced = {module for program in programs for module in program.modules()}
    found = {}
    for module, names in all_names(network).items():
        if isinstance(module, DeployedDCDConv2d) and _takes(module) and module not in replaced:
            found[module] = names
    return found


def _takes(layer: DeployedDCDConv2d) -> bool:
    """Whether a module is a layer that `RuntimeDCD` computes, and nothing hangs on how it does."""
    return (
        layer.geometry == Geometry((1, 1))
        and layer.sizes.form == "channel"
        and layer.sizes.blocks == 1
        and layer.p is not None
        and layer.asked == "auto"
        and layer.weight.dtype == torch.float32
        and not has_hooks(layer)
    )


class RuntimeDCD(StandIn):
    """What a 1x1 DCD layer in eval mode computes, its constants worked out beforehand.

    Args:
        layer: The layer; it is copied.
        channels_last: As for `in_runtime_form`.
    """

    _answers = CONV2D_ATTRIBUTES
    static: Tensor
    static_bias: Tensor
    p: Tensor
    q: Tensor
    q_bias: Tensor

    def __init__(self, layer: DeployedDCDConv2d, *, channels_last: bool) -> None:
        super().__init__()
        self._stand_for(layer)
        self.context_size = layer.context_size
        self.scale_activation = layer.scale_activation if layer.has_scale else "none"
        self.scaled_bias = layer.scaled_bias is not None
        parts = _parts(layer)
        self.hidden = Hidden(layer.branch)
        self.channels_last = channels_last
        self.out_channels, self.in_channels = layer.weight.shape[:2]
        self.latent = required(layer.p).shape[1]
        affine = self.scale_activation in ("affine", "none")
        size = parts["fusion"].shape[1] * self.out_channels
        entries = self.in_channels * self.out_channels
        widens = self.out_channels > self.in_channels
        self.varying_bias = self.scaled_bias or bool(parts["bias"][:, :-1].any())
        if affine and size * self.in_channels <= _KERNEL_NUMBERS:
            self.form, build = "kernel", self._build_kernel
        elif not channels_last and entries <= _PRODUCT_NUMBERS and (widens or not affine):
            self.form, build = "product", self._build_product
        elif not channels_last and size * (self.latent + 1) <= _EXPAND_NUMBERS:
            self.form, build = "expand", self._build_factors
        elif not channels_last and not self.varying_bias:
            self.form, build = "mixed", self._build_factors
        else:
            self.form, build = "factors", self._build_factors
        # Where the input is smaller than the output, a channel of ones is cheaper than the sum with a bias; one that is
        # the same for every sample costs nothing where a convolution follows (`for_onnxruntime`).
        self.pads = not channels_last and widens and self.varying_bias and self.form in ("kernel", "product")
        for name, value in build(parts, layer).items():
            self.register_buffer(name, value.float().contiguous())

    def _build_kernel(self, parts: dict[str, Tensor], layer: DeployedDCDConv2d) -> dict[str, Tensor]:
        """The affine map from h to W(x), with the bias for another column; of h alone, a bias stays as it is."""
        weight = layer.weight.detach().double().flatten(1)
        p, q = (required(part).detach().double() for part in (layer.p, layer.q))
        columns = parts["fusion"].T.reshape(-1, self.latent, self.latent)
        kernels = p @ columns @ q.T + parts["scale"].T[:, :, None] * weight
        biases = parts["bias"].T
        if self.pads:
            kernels = torch.cat((kernels, biases[:, :, None]), 2)
        if self.channels_last:
            kernels = kernels.transpose(1, 2)
        found = _affine("kernel", kernels.flatten(1).T)
        return found if self.pads else found | _affine("bias", parts["bias"])

    def _build_product(self, parts: dict[str, Tensor], layer: DeployedDCDConv2d) -> dict[str, Tensor]:
        """W0, Q^T and the affine maps from h to Lambda and P Phi, the bias for another column of each."""
        weight = layer.weight.detach().double().flatten(1)
        p, q = (required(part).detach().double() for part in (layer.p, layer.q))
        expand, inward = p @ parts["fusion"].T.reshape(-1, self.latent, self.latent), q.T
        found = _affine("scale", parts["scale"])
        if self.pads:
            own = torch.zeros(self.out_channels) if not self.scaled_bias else required(layer.scaled_bias).detach()
            weight = torch.cat((weight, own.double()[:, None]), 1)
            expand = torch.cat((expand, parts["bias"].T[:, :, None]), 2)
            inward = F.pad(inward, (0, 1, 0, 1))
            inward[-1, -1] = 1
        else:
            found |= _affine("bias", parts["bias"])
            if self.scaled_bias:
                found["static_bias"] = required(layer.scaled_bias).detach()
        return found | {"static": weight, "q": inward} | _affine("expand", expand.flatten(1).T)

    def _build_factors(self, parts: dict[str, Tensor], layer: DeployedDCDConv2d) -> dict[str, Tensor]:
        """W0, Q^T and P for convolutions, and the affine maps from h to Lambda, [P Phi, b], [Phi, 1] or Phi, and b."""
        p, q = (required(part).detach().double() for part in (layer.p, layer.q))
        found = {"static": layer.weight.detach()} | _affine("scale", parts["scale"])
        if self.scaled_bias:
            found["static_bias"] = required(layer.scaled_bias).detach()
        inward = q.T[:, :, None, None]
        fusions = parts["fusion"].T.reshape(-1, self.latent, self.latent)
        if self.form == "factors":
            found |= {"p": p} | _affine("fusion", parts["fusion"]) | _affine("bias", parts["bias"])
            return found | {"q": inward}
        if self.form == "expand":
            expand = torch.cat((p @ fusions, parts["bias"].T[:, :, None]), 2)
            found |= _affine("expand", expand.flatten(1).T)
        else:
            fusions = F.pad(fusions, (0, 1, 0, 1))
            fusions[-1, -1, -1] = 1
            found |= {"p": torch.cat((p, parts["bias"][:, -1:]), 1)} | _affine("fusion", fusions.flatten(1).T)
        one = torch.zeros(self.latent + 1, dtype=q.dtype)
        one[-1] = 1
        return found | {"q": F.pad(inward, (0, 0, 0, 0, 0, 0, 0, 1)), "q_bias": one}

    def forward(self, x: Tensor) -> Tensor:
        """As `DeployedDCDConv2d.forward`."""
        if self.form in ("kernel", "product"):
            hidden = self.hidden(pool_context(x, self.context_size, x.dtype))
            return self._by_rows(x, hidden) if self.channels_last else self._by_columns(x, hidden)
        hidden = self.hidden(_pooled(x) if self.context_size == 1 else pool_context(x, self.context_size, x.dtype))
        return self._by_factors(x, hidden)

    def _by_columns(self, x: Tensor, hidden: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if self.pads:
            x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
        scale = None
        if self.form == "kernel":
            kernel = self._map("kernel", hidden).reshape(-1, self.out_channels, self.in_channels + self.pads)
        else:
            scale = self._scale(hidden)
            expand = self._map("expand", hidden).reshape(-1, self.out_channels, self.latent + self.pads)
            static = self.static if scale is None else self.static * scale[..., None]
            kernel = static + torch.matmul(expand, self.q)
        out = torch.matmul(kernel, x.flatten(2)).reshape(-1, self.out_channels, height, width)
        if self.pads:
            return out
        bias = self._map("bias", hidden)
        if self.form == "product" and self.scaled_bias:
            bias = bias + self.static_bias * required(scale)
        return add_bias(out, bias)

    def _by_rows(self, x: Tensor, hidden: Tensor) -> Tensor:
        height, width = x.shape[2:]
        kernel = self._map("kernel", hidden).reshape(-1, self.in_channels, self.out_channels)
        bias = self._map("bias", hidden)
        out = torch.matmul(x.permute(0, 2, 3, 1).flatten(1, 2), kernel) + (bias if bias.dim() == 1 else bias[:, None])
        return out.reshape(-1, height, width, self.out_channels).permute(0, 3, 1, 2)

    def _by_factors(self, x: Tensor, hidden: Tensor) -> Tensor:
        height, width = x.shape[2:]
        static = F.conv2d(x, self.static, self.static_bias if self.scaled_bias else None)
        scale = self._scale(hidden)
        if scale is not None:
            static = static * scale[..., None, None]
        latent = F.conv2d(x, self.q, None if self.form == "factors" else self.q_bias).flatten(2)
        if self.form == "expand":
            expand = self._map("expand", hidden).reshape(-1, self.out_channels, self.latent + 1)
            return static + torch.matmul(expand, latent).reshape(-1, self.out_channels, height, width)
        if self.form == "mixed":
            fusion = self._map("fusion", hidden).reshape(-1, self.latent + 1, self.latent + 1)
            mixed = torch.matmul(self.p, torch.matmul(fusion, latent))
            return static + mixed.reshape(-1, self.out_channels, height, width)
        fusion = self._map("fusion", hidden).reshape(-1, self.latent, self.latent)
        bias = self._map("bias", hidden)
        if not self.channels_last:
            dynamic = torch.matmul(torch.matmul(self.p, fusion), latent).reshape(-1, self.out_channels, height, width)
            return add_bias(static + dynamic, bias)
        mixed = torch.matmul(fusion, latent).reshape(-1, self.latent, height, width)
        if bias.dim() == 1:
            return F.conv2d(mixed, self.p[:, :, None, None], bias) + static
        return F.conv2d(mixed, self.p[:, :, None, None]) + add_bias(static, bias)

    def _scale(self, hidden: Tensor) -> Tensor | None:
        """Lambda, ``(B, C_out)`` or ``(C_out,)``; None where there is none."""
        if self.scale_activation == "none":
            return None
        scale = self._map("scale", hidden)
        return scale if self.scale_activation == "affine" else activate_scale(scale, self.scale_activation)

    def _map(self, name: str, hidden: Tensor) -> Tensor:
        """The affine map of that name, ``(B, R)`` to ``(B, N)``; ``(N,)`` where it is constant."""
        offset: Tensor = getattr(self, f"{name}_offset")
        matrix = getattr(self, f"{name}_matrix", None)
        return offset if matrix is None else F.linear(hidden, matrix, offset)


class Hidden(nn.Module):
    """The branch of a layer up to its heads.

    Args:
        branch: The branch, of which the heads are left out.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, branch: DeployedBranch) -> None:
        super().__init__()
        first, self.has_constant = branch.squeeze, _has_constant_unit(branch)
        assert first is not None
        if self.has_constant:
            # A unit whose square is the small term of the squared length.
            first = AffineMap(
                F.pad(first.weight, (0, 0, 0, 1)), F.pad(first.constant, (0, 1), value=LENGTH_EPSILON**0.5)
            )
        self.branch = DeployedBranch(
            {},
            squeeze=first,
            gate=branch.gate,
            activation=branch.activation,
            unit=branch.unit and not self.has_constant,
            normalise=branch.normalise,
        )

    def forward(self, context: Tensor) -> Tensor:
        """Context ``(B, features)`` to ``(B, units)``."""
        hidden = self.branch.hidden(context)
        if not self.has_constant:
            return hidden
        length: Tensor = torch.linalg.vector_norm(hidden, dim=1, keepdim=True)
        return hidden / length


def _parts(layer: DeployedDCDConv2d) -> dict[str, Tensor]:
    """Every coefficient as an affine map of the branch's hidden vector: ``(N, units + 1)``, what is constant last."""
    branch = layer.branch
    extra = int(_has_constant_unit(branch))

    def head(name: str) -> Tensor:
        found = branch.head(name)
        return torch.cat((F.pad(found.weight.double(), (0, extra)), found.constant.double()[:, None]), 1)

    fusion = head("fusion")
    scale, bias = (torch.zeros(layer.out_channels, fusion.shape[1], dtype=fusion.dtype) for _ in range(2))
    scale[:, -1] = 1
    if layer.bias is not None:
        bias[:, -1] = layer.bias
    return {
        "scale": head("scale") if layer.has_scale else scale,
        "fusion": fusion,
        "bias": head("shift") if "shift" in branch.heads else bias,
    }


def _affine(name: str, part: Tensor) -> dict[str, Tensor]:
    """The constants of `RuntimeDCD._map`: no matrix where nothing depends on the hidden vector."""
    matrix, offset = part[:, :-1], part[:, -1]
    found = {f"{name}_offset": offset}
    return found | {f"{name}_matrix": matrix} if matrix.any() else found


def _has_constant_unit(branch: DeployedBranch) -> bool:
    """Whether a constant unit can be the small term of the squared length: these activations pass it as it is."""
    return branch.unit and branch.activation in ("relu", "relu6")


def _pooled(x: Tensor) -> Tensor:
    """The mean over pixels, ``(B, C)``, by way of an operator that pools in any layout."""
    return x.mean((2, 3), keepdim=True).flatten(1)
