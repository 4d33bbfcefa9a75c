"""KernelWarehouse: kernels of blocks, each a mixture of the cells of a warehouse that several layers share."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from dynaconv.families.contract.base import (
    DynamicConv,
    DynamicConv1d,
    DynamicConv2d,
    DynamicConv3d,
)
from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.checks import check_integer, check_real
from dynaconv.families.contract.layer import DynamicLayer
from dynaconv.families.contract.linear import DynamicLinear
from dynaconv.families.contract.norms import make_context_norm, normalise
from dynaconv.families.contract.temperature import HasTemperature
from dynaconv.families.kernel_warehouse.assembly import cut
from dynaconv.families.kernel_warehouse.assignment import Slot, partition
from dynaconv.families.kernel_warehouse.attention import warehouse_attention
from dynaconv.families.kernel_warehouse.branch import KernelWarehouseBranch, LogitSizes
from dynaconv.families.kernel_warehouse.config import TEMPERATURE, KernelWarehouseConfig
from dynaconv.families.kernel_warehouse.core import (
    KernelWarehouseConvolution,
    KernelWarehouseMap,
    KernelWarehouseOperator,
)
from dynaconv.families.kernel_warehouse.deployed import (
    DeployedKernelWarehouseConv,
    DeployedKernelWarehouseLinear,
    Memo,
)
from dynaconv.families.kernel_warehouse.reference import EPSILON
from dynaconv.families.kernel_warehouse.start import fit_cells
from dynaconv.families.kernel_warehouse.warehouse import Warehouse


class KernelWarehouseLayer(HasTemperature, KernelWarehouseOperator, DynamicLayer):
    """Mixin of the trainable layers: cells, branch, temperature and the start from a static kernel."""

    config_class = KernelWarehouseConfig
    temperature_range = TEMPERATURE
    branch: KernelWarehouseBranch
    static_kernel: Tensor | None
    """Kernel of the static layer that this layer was made of, until it gets its place in a shared warehouse."""
    fitted_logits: Tensor | None
    """Logits, ``(M, n + 1)``, for which the cells approximate a static kernel; None: those of the starting cells."""

    def _set_up(self, config: KernelWarehouseConfig, device: torch.device, dtype: torch.dtype) -> None:
        """Build the parts of a layer with cells of its own."""
        self.static_kernel = self.fitted_logits = None
        self.budget = config.budget
        parts = partition([self.kernel_shape], **config.cutting)
        self.context_features = config.context_features
        self.context_norm = make_context_norm(config.context_norm, self._branch_features, device, dtype)
        self._set_up_temperature(config.temperature, device)
        self.place(Warehouse(parts, device, dtype), parts.slots[0], owner=True)

    def place(self, warehouse: Warehouse, slot: Slot, *, owner: bool) -> None:
        """Give the layer a place in a warehouse, and a new branch.

        Args:
            warehouse: The cells.
            slot: The layer's part of them.
            owner: Whether the warehouse becomes a submodule of this layer.
        """
        config, features = self.config, self._branch_features
        self.slot = slot
        self._use_warehouse(warehouse, owner=owner)
        self.branch = KernelWarehouseBranch(
            features,
            max(features // config.reduction, config.min_hidden_channels),
            LogitSizes.of(slot, warehouse.num_cells, config.basis_reduction),
            config.branch_norm,
            warehouse.cells.device,
            warehouse.cells.dtype,
        ).train(self.training)

    def reset_parameters(self) -> None:
        """Initialise the branch, set the bias to zero and, in the owner of the warehouse, draw the cells."""
        if self.owns_warehouse:
            self.warehouse.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self._reset_branch()

    def _logits(self, context: Tensor, *, track: bool) -> Tensor:
        logits: Tensor = self.branch(normalise(self.context_norm, context, track=track), track=track)
        return logits

    def _tau(self) -> Tensor:
        return self.temperature

    def static_kernel_refusal(self) -> str | None:
        """Return why the layer cannot have the kernel of a static one; None if it can."""
        if self.budget >= 1:
            return None
        return (
            f"budget={self.budget:g} has fewer numbers than a static kernel, so it cannot start from one; use a budget "
            f"of at least 1, or convert a static network with start='least_squares', which approximates it, or 'random'"
        )

    def set_own_cells(self, kernel: Tensor) -> None:
        """Set the cells from which the blocks start such that a neutral layer has this kernel, at its temperature.

        Args:
            kernel: ``(C_out, C_in / groups, *k)``.

        Raises:
            ValueError: the budget is less than 1.
        """
        if (reason := self.static_kernel_refusal()) is not None:
            raise ValueError(f"{reason}.")
        cells, tau = self.warehouse.cells, float(self.temperature)
        # Neutral logits, 1 for the starting cell, give a weight of 1 / 1.001 at temperature 0.
        gain = (1 - tau) / (1 + EPSILON) + tau
        with torch.no_grad():
            blocks = cut(kernel.to(cells.device, cells.dtype), cells.shape[1:]) / gain
            if not cells.is_meta:
                cells[self._starting_cells()] = blocks

    def check_least_squares(self) -> None:
        """Raise ValueError unless the layer's temperature allows a least-squares start."""
        if float(self.temperature) != 0:
            raise ValueError(
                f"start='least_squares' fits the cells for temperature 0; got temperature={float(self.temperature):g}. "
                f"Leave the temperature out, and do not anneal it."
            )

    def _set_static(self, name: str, static: Tensor) -> None:
        if name != "weight":
            super()._set_static(name, static)
            return
        config = self.config
        kernel = static.detach().reshape(self.kernel_shape)
        if config.start == "exact":
            self.set_own_cells(kernel)
        elif config.start == "least_squares":
            self.check_least_squares()
            # In a named warehouse, the cells are fitted to all layers at once, when they get their places.
            if config.warehouse is None and not kernel.is_meta:
                cells, (self.fitted_logits,), _ = fit_cells([kernel], self.warehouse.partition)
                self.warehouse.cells.copy_(cells)
        if config.start != "random" and config.warehouse is not None:
            self.static_kernel = kernel

    def _neutralise(self) -> None:
        """Make the logits the same for every input, such that training can change them."""
        logits, self.fitted_logits = self.fitted_logits, None
        if logits is None:
            logits = torch.eye(self.warehouse.num_cells + 1, device=self.warehouse.cells.device)
            logits = logits[self._starting_cells()]
        self.branch.set_constant(logits)

    @property
    def is_neutral(self) -> bool:
        """Whether the kernel is the same for every input: the logits are constant, or the temperature is 1."""
        return self.branch.is_neutral or float(self.temperature) == 1

    @torch.no_grad()
    def _static_value(self, name: str) -> Tensor:
        """Return the layer's ``weight`` or ``bias`` while it is neutral."""
        if name == "bias":
            assert self.bias is not None
            return self.bias
        cells = self.warehouse.cells
        logits = self.branch.constant_logits(context_dtype(cells.dtype))
        kernel: Tensor = self.warehouse(
            warehouse_attention(logits, self._start_table, self.temperature), self.kernel_shape
        )
        return kernel[0].reshape(self._weight_shape)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a state dict; a static layer's ``weight`` sets the cells from which the layer's blocks start."""
        key = prefix + "weight"
        static = state_dict.pop(key, None)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if static is None:
            return
        state_dict[key] = static
        errors: list[str] = args[-1]
        if not isinstance(static, Tensor) or static.shape != self._weight_shape:
            given = tuple(static.shape) if isinstance(static, Tensor) else type(static).__name__
            errors.append(f"size mismatch for {key}: {given} in the state dict, {self._weight_shape} in the layer.")
            return
        metadata: dict[str, Any] = args[0]
        if self.warehouse.cells.is_meta and not static.is_meta and metadata.get("assign_to_params_buffers", False):
            self.warehouse.materialise(static)
        try:
            self.set_own_cells(static.reshape(self.kernel_shape))
        except ValueError as error:
            errors.append(f"{key}: {error}")


class _KernelWarehouseConv(KernelWarehouseLayer, KernelWarehouseConvolution, DynamicConv):
    """KernelWarehouse's convolution in any dimension."""

    def _store_kernel(self, kernel: Tensor) -> None:
        """The cells hold the kernel."""

    def _build(self, config: KernelWarehouseConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._set_up(config, device, dtype)

    @classmethod
    def from_conv(cls, conv: Any, **hyperparameters: Any) -> Self:
        """Return a layer that computes the function of ``conv`` until it is trained; see `DynamicConv.from_conv`.

        With ``start="least_squares"`` its kernel approximates that of ``conv``, with ``start="random"`` it is new.
        """
        layer = cls.like(conv, **hyperparameters)
        if layer.config.start != "random":
            layer._neutralise()
        return layer

    @classmethod
    def fresh_like(cls, conv: Any, **hyperparameters: Any) -> Self:
        """As `like`, for a network that is trained from scratch: the cells are drawn as in the published code.

        Raises:
            TypeError: ``conv`` is not a `static_class` or overrides its computation, or an option is unknown.
            ValueError: an option is invalid for the convolution.
        """
        return cls.like(conv, **{**hyperparameters, "start": "random"})

    def deployed(self) -> DeployedKernelWarehouseConv:
        """Return the deployed form, which computes the layer's function in eval mode."""
        return DeployedKernelWarehouseConv(self)

    def deployed_among(self, memo: Memo) -> DeployedKernelWarehouseConv:
        """Return the deployed form, which shares its cells with those of other layers."""
        return DeployedKernelWarehouseConv(self, memo)


class KernelWarehouseConv2d(_KernelWarehouseConv, DynamicConv2d):
    """A convolution whose kernel consists of blocks, each a weighted sum of all cells of a warehouse.

    The kernels of the layers that share a warehouse are cut into blocks of one shape. Block m of a layer's kernel is
    W_m(x) = sum_j a_mj(x) E_j over the n cells E_j, and there is no other kernel: `weight` is computed from the cells.
    The branch is average pool -> linear to max(C_in // reduction, min_hidden_channels) -> batch norm -> ReLU -> linear
    to logits t for the n cells and a null cell in each block. The weights are
    a_mj = (1 - tau) t_mj / (sum_k |t_mk| + 0.001) + tau beta_mj, with the temperature tau and a constant beta that is 1
    for the cell from which a block starts. tau falls from 1 to 0 during training, see `dynaconv.set_temperature` and
    the callback of ``dynaconv train``.

    A layer that is built alone has a warehouse of its own. `dynaconv.share_cells` makes several layers share one;
    `dynaconv.convert` and the registered networks do so.

    In train mode the branch's batch norm uses the statistics of the batch, so W(x) of a sample depends on the others.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`.

    Raises:
        ValueError: an argument is out of range or does not match the others, or the budget or the divisors do not fit
            the kernel's size.

    Deviations:
        The temperature starts at 0, so that a layer without a schedule is dynamic. A single sample in train mode is
        normalised by running statistics.

    Reference: Li and Yao, ICML 2024, arXiv:2406.07879.
    """


class KernelWarehouseConv1d(_KernelWarehouseConv, DynamicConv1d):
    """`KernelWarehouseConv2d` in one dimension; takes the arguments of `torch.nn.Conv1d`.

    Raises:
        ValueError: an argument is out of range or does not match the others, or the budget or the divisors do not fit
            the kernel's size.
    """


class KernelWarehouseConv3d(_KernelWarehouseConv, DynamicConv3d):
    """`KernelWarehouseConv2d` in three dimensions; takes the arguments of `torch.nn.Conv3d`.

    Raises:
        ValueError: an argument is out of range or does not match the others, or the budget or the divisors do not fit
            the kernel's size.
    """


class KernelWarehouseLinear(KernelWarehouseLayer, KernelWarehouseMap, DynamicLinear):
    """A linear layer whose matrix consists of blocks, each a weighted sum of the cells of a warehouse.

    It maps ``(B, ..., in_features)`` to ``(B, ..., out_features)``, all tokens of a sample by the same matrix. The
    context is the mean over the tokens. Otherwise it is `KernelWarehouseConv2d` with a kernel of size 1.

    Args:
        in_features, out_features, bias, device, dtype: As for `torch.nn.Linear`.

    Raises:
        ValueError: an argument is out of range or does not match the others, or the budget or the divisors do not fit
            the matrix.

    Reference: Li and Yao, ICML 2024, arXiv:2406.07879; the classifier of the published MobileNetV2 networks with a
        budget of 1/2.
    """

    config_class = KernelWarehouseConfig
    _without = ("whole_taps", "algorithm")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._config = config = self._make_config(options)
        self.in_features = check_integer("in_features", in_features)
        self.out_features = check_integer("out_features", out_features)
        vector = check_real(torch.empty(out_features, device=device, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(vector) if bias else None)
        self._set_up(config, vector.device, vector.dtype)
        self.reset_parameters()

    @classmethod
    def fresh_like(cls, linear: nn.Linear, **hyperparameters: Any) -> Self:
        """As `like`, for a network that is trained from scratch: the cells are drawn as in the published code.

        Raises:
            TypeError: ``linear`` is not a `torch.nn.Linear` or overrides its computation, or an option is unknown.
            ValueError: an option is invalid for the layer.
        """
        return cls.like(linear, **{**hyperparameters, "start": "random"})

    @classmethod
    def from_linear(cls, linear: nn.Linear, **hyperparameters: Any) -> Self:
        """Return a layer that computes the function of ``linear`` until it is trained; see `from_conv`."""
        layer = cls.like(linear, **hyperparameters)
        if layer.config.start != "random":
            layer._neutralise()
        return layer

    def deployed(self) -> DeployedKernelWarehouseLinear:
        """Return the deployed form, which computes the layer's function in eval mode."""
        return DeployedKernelWarehouseLinear(self)

    def deployed_among(self, memo: Memo) -> DeployedKernelWarehouseLinear:
        """Return the deployed form, which shares its cells with those of other layers."""
        return DeployedKernelWarehouseLinear(self, memo)
