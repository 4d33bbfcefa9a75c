"""Forward costs of the two algorithms of DCD. A backward pass is assumed to double both of them."""

from dynaconv.families.dcd.factors import DCDForm
from dynaconv.ops.cost import Cost
from dynaconv.ops.geometry import Geometry


def dcd_costs(
    form: DCDForm,
    geometry: Geometry,
    input_shape: tuple[int, ...],
    out_channels: int,
    latent: tuple[int, int, int],
    *,
    scaled: bool = True,
    input_scaled: bool = False,
) -> dict[str, Cost]:
    """Return the costs of ``kernel`` and ``factored``, without the branch, which costs the same for both.

    Args:
        form: Form of the residual.
        geometry: Stride, padding, dilation and groups.
        input_shape: ``(B, C_in, *sizes)``.
        out_channels: C_out.
        latent: Blocks, L and L_k; L = 0 if the variant has no residual.
        scaled: Whether W(x) has Lambda(x).
        input_scaled: Whether W(x) has S(x).
    """
    batch, in_channels = input_shape[:2]
    applied, input_pixels, pixels = geometry.pixel_counts(input_shape)
    weights = out_channels * (in_channels // geometry.groups) * geometry.num_taps
    dim = latent[1]
    residual = (
        _residual(form, applied, input_pixels, in_channels, out_channels, latent, geometry.num_taps) if dim else Cost()
    )
    factored = Cost(dense=applied * weights, moved=2.0 * pixels * out_channels * (scaled + (dim > 0)), calls=1 + scaled)
    assembly = _assembly(form, in_channels, out_channels, latent, geometry.num_taps) if dim else 0
    kernel = Cost(batched=applied * weights + batch * assembly, moved=batch * weights * (2.0 + scaled), calls=5)
    if input_scaled:
        factored += Cost(moved=2.0 * input_pixels * in_channels, calls=1)
        kernel += Cost(moved=1.0 * batch * weights)
    if not geometry.pointwise:
        # The batch is folded into groups: B small convolutions, each with its own packed weights.
        kernel += Cost(moved=2.0 * (input_pixels * in_channels + pixels * out_channels + batch * weights), calls=batch)
    return {"kernel": kernel, "factored": factored + residual}


def _residual(
    form: DCDForm,
    pixels: int,
    input_pixels: int,
    in_channels: int,
    out_channels: int,
    latent: tuple[int, int, int],
    num_taps: int,
) -> Cost:
    blocks, dim, taps = latent
    if form == "depthwise":
        filters = pixels * in_channels * taps
        return Cost(dense=filters * num_taps, batched=pixels * out_channels * taps, moved=2.0 * filters, calls=5)
    if form == "joint":
        rows, filters = input_pixels * blocks * dim, pixels * blocks * dim * taps
        dense = rows * (in_channels // blocks) + filters * num_taps + pixels * dim * out_channels
        return Cost(dense=dense, batched=filters * dim, moved=2.0 * (rows + filters), calls=6)
    rows = pixels * blocks * dim
    return Cost(dense=rows * (in_channels // blocks), batched=pixels * dim * out_channels, moved=2.0 * rows, calls=5)


def _assembly(form: DCDForm, in_channels: int, out_channels: int, latent: tuple[int, int, int], num_taps: int) -> float:
    blocks, dim, taps = latent
    if form == "depthwise":
        return out_channels * taps * (taps + num_taps)
    columns = in_channels // blocks
    if form == "joint":
        return blocks * dim * dim * taps * num_taps + out_channels * dim * num_taps * (dim + columns)
    return in_channels * dim * dim + out_channels * dim * columns
