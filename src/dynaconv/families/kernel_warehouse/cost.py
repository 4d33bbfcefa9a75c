"""Forward costs of the algorithms of KernelWarehouse. A backward pass is assumed to double all of them."""

from dynaconv.ops.cost import Cost
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixture import mixture_costs


def kernel_warehouse_costs(
    geometry: Geometry, input_shape: tuple[int, ...], out_channels: int, num_cells: int
) -> dict[str, Cost]:
    """Return the costs of ``kernel`` and ``grouped``, without the branch, which costs the same for both.

    A kernel is a mixture in which each weight is a sum over all n cells.

    Args:
        geometry: Stride, padding, dilation and groups.
        input_shape: ``(B, C_in, *sizes)``.
        out_channels: C_out.
        num_cells: n.
    """
    costs = mixture_costs(geometry, input_shape, out_channels, num_cells)
    weights = input_shape[0] * out_channels * (input_shape[1] // geometry.groups) * geometry.num_taps
    # The blocks are reordered once.
    reordering = Cost(moved=2.0 * weights, calls=1)
    return {name: costs[name] + reordering for name in ("kernel", "grouped")}
