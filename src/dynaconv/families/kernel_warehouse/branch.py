"""The branch of a KernelWarehouse layer: from the averaged input to the logits of the cells."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families.contract.affine import frozen_parameter
from dynaconv.families.contract.branch import BranchLinear, kaiming_std
from dynaconv.families.contract.deployed import AffineMap, DeployedBranch, fold_context_norm
from dynaconv.families.contract.norms import NORM_EPSILON, LatentBatchNorm2d, norm_affine, normalise
from dynaconv.families.kernel_warehouse.assignment import Slot
from dynaconv.families.kernel_warehouse.attention import join_columns
from dynaconv.ops import full_precision


@dataclass(frozen=True)
class LogitSizes:
    """Sizes of the logits ``(B, M, n + 1)`` of a layer.

    Attributes:
        slot: The layer's part of the warehouse.
        num_cells: n.
        basis: K, the numbers per block from which the logits of other layers' cells follow; None: no basis.
    """

    slot: Slot
    num_cells: int
    basis: int | None

    @classmethod
    def of(cls, slot: Slot, num_cells: int, basis_reduction: int) -> "LogitSizes":
        """Return the sizes for a layer's option."""
        foreign = num_cells - slot.own
        basis = max(foreign // basis_reduction, 16) if basis_reduction > 1 and foreign else None
        return cls(slot, num_cells, basis)

    @property
    def columns(self) -> int:
        """Number of logits that F2 gives for each block."""
        return self.num_cells + 1 if self.basis is None else self.slot.own + self.basis + 1

    def join(self, given: Tensor, basis: nn.Module | None, constant: Tensor | None) -> Tensor:
        """Return the logits, ``(B, M, n + 1)``, from the output of F2, F3 and the constant D."""
        rows = given.reshape(given.shape[0], self.slot.blocks, self.columns)
        if basis is None or self.basis is None:
            return rows
        own, factors, null = torch.split(rows, [self.slot.own, self.basis, 1], -1)
        joined = join_columns(torch.cat((own, null), -1), basis(factors), self.slot.first)
        assert constant is not None
        return joined + constant.to(joined.dtype).reshape(self.slot.blocks, self.num_cells + 1)


class KernelWarehouseBranch(nn.Module):
    """Context -> F1 -> norm -> ReLU -> F2, which gives the logits of all cells and the null cell for each block.

    With a basis, F2 gives the logits of the layer's own cells and K numbers for each block; F3 maps these to the logits
    of the other cells, and a constant D is added. Computes in float32 (float64 for float64 contexts), also under
    autocast. A single context in train mode is normalised by running statistics, because one value has no variance.

    Args:
        in_features: Length of the context.
        hidden_channels: R, the number of hidden units.
        sizes: Sizes of the logits.
        norm: ``batch``, or ``layer`` with a bias of F1.
        device, dtype: Device and dtype of the weights.
    """

    basis: BranchLinear | None
    constant: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        hidden_channels: int,
        sizes: LogitSizes,
        norm: str,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.sizes = sizes
        layer_norm = norm == "layer"
        self.squeeze = BranchLinear(
            in_features, hidden_channels, kaiming_std(hidden_channels), bias=layer_norm, **options
        )
        self.norm: nn.Module = (
            nn.LayerNorm(hidden_channels, eps=NORM_EPSILON, **options)
            if layer_norm
            else LatentBatchNorm2d(hidden_channels, **options)
        )
        size = sizes.slot.blocks * sizes.columns
        self.heads = nn.ModuleDict(
            {"attention": BranchLinear(hidden_channels, size, kaiming_std(size), bias=sizes.basis is None, **options)}
        )
        if sizes.basis is None:
            self.basis = None
            self.register_parameter("constant", None)
        else:
            foreign = sizes.num_cells - sizes.slot.own
            self.basis = BranchLinear(sizes.basis, foreign, kaiming_std(foreign), **options)
            self.constant = nn.Parameter(torch.zeros(sizes.slot.blocks * (sizes.num_cells + 1), **options))

    @property
    def head(self) -> BranchLinear:
        """F2."""
        head = self.heads["attention"]
        assert isinstance(head, BranchLinear)
        return head

    def reset_parameters(self) -> None:
        """Initialise the weights, set biases and D to zero and reset the norm."""
        for module in (self.squeeze, self.norm, self.head, self.basis):
            if module is not None:
                module.reset_parameters()  # type: ignore[operator]
        if self.constant is not None:
            nn.init.zeros_(self.constant)

    @torch.no_grad()
    def set_constant(self, logits: Tensor) -> None:
        """Make the logits the same for every input, ``(M, n + 1)``. At first, only F2 and the constant then learn."""
        nn.init.zeros_(self.head.weight)
        constant = self.head.bias if self.constant is None else self.constant
        constant.copy_(logits.flatten())

    @property
    def is_neutral(self) -> bool:
        """Whether the logits are the same for every input."""
        return not self.head.weight.any()

    def constant_logits(self, dtype: torch.dtype) -> Tensor:
        """Return the logits of a zero hidden vector, ``(1, M, n + 1)``; those of every input if `is_neutral`."""
        hidden = self.head.weight.new_zeros(1, self.head.in_features, dtype=dtype)
        return self.sizes.join(self.head(hidden), self.basis, self.constant)

    def forward(self, context: Tensor, *, track: bool = True) -> Tensor:
        """Map ``(B, in_features)`` in float32 or float64 to logits ``(B, M, n + 1)``.

        Args:
            context: The averaged input.
            track: Whether train mode updates the running statistics.
        """
        with full_precision(context.device):
            hidden = F.relu(normalise(self.norm, self.squeeze(context), track=track))
            return self.sizes.join(self.head(hidden), self.basis, self.constant)


class DeployedKernelWarehouseBranch(DeployedBranch):
    """Deployed form of `KernelWarehouseBranch`: a batch norm is folded into the first map, a layer norm stays.

    Args:
        branch: The layer's branch.
        context_norm: The layer's context norm.
    """

    norm: nn.LayerNorm | None
    constant: nn.Parameter | None

    def __init__(self, branch: KernelWarehouseBranch, context_norm: nn.Module | None) -> None:
        squeeze, norm = AffineMap.of(branch.squeeze), branch.norm
        if not isinstance(norm, nn.LayerNorm | nn.Identity):
            squeeze = squeeze.fold_output_affine(*norm_affine(norm))
        super().__init__(
            {"attention": AffineMap.of(branch.head)},
            squeeze=fold_context_norm(context_norm, squeeze),
            normalise=isinstance(context_norm, nn.LayerNorm),
        )
        self.sizes = branch.sizes
        self.basis = None if branch.basis is None else AffineMap.of(branch.basis)
        constant = branch.constant
        self.register_parameter("constant", None if constant is None else frozen_parameter(constant.cpu().double()))
        self.norm = None
        if isinstance(norm, nn.LayerNorm):
            self.norm = nn.LayerNorm(norm.normalized_shape, norm.eps).double()
            self.norm.load_state_dict(norm.state_dict())
            self.norm.requires_grad_(False)
        self.eval()

    def hidden(self, context: Tensor) -> Tensor:
        """Return the input of F2 for a context ``(B, features)``."""
        if self.norm is None:
            return super().hidden(context)
        if self.normalise:
            context = F.layer_norm(context, context.shape[1:], eps=NORM_EPSILON)
        assert self.squeeze is not None
        return F.relu(normalise(self.norm, self.squeeze(context)))

    def whole_head(self) -> AffineMap:
        """Return the map of the hidden vector to all logits, ``(M * (n + 1),)``, with F3 and the constant D in it."""
        head = self.head("attention")
        if self.basis is None:
            return head
        # The map is affine, so its values at zero and at the unit vectors define it.
        points = torch.cat(
            [head.weight.new_zeros(1, head.weight.shape[1]), torch.eye(head.weight.shape[1]).to(head.weight)]
        )
        constant, *rows = self.sizes.join(head(points), self.basis, self.constant).flatten(1)
        return AffineMap((torch.stack(rows) - constant).T, constant)

    def logits(self, context: Tensor) -> Tensor:
        """Map ``(B, features)`` in float32 or float64 to logits ``(B, M, n + 1)``."""
        with full_precision(context.device):
            return self.sizes.join(self.head("attention")(self.hidden(context)), self.basis, self.constant)
