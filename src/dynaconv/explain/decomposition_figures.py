"""Figures of kernel decompositions: spectra, errors of the best DCD fit, size and similarity of the residuals.

Each function returns a `matplotlib.figure.Figure`; `dynaconv.explain.figures.save` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, PercentFormatter
from torch import Tensor

from dynaconv.explain.dcd_fit import DCDErrorCurve
from dynaconv.explain.decomposition import ResidualForm
from dynaconv.explain.decomposition_spectrum import (
    ResidualSpectrum,
    cumulative_energy,
    directions_for_energy,
    effective_rank,
)
from dynaconv.explain.figures import COLOURS, TITLE_STYLE, new_figure, style_axes

MARKED_SHARES = (0.9, 0.99)
"""Shares of the energy that the spectrum figure marks."""
MIN_ERROR_LIMIT = 1e-3
"""Smallest upper limit of the error axis."""
CONSTANT_TOLERANCE = 1e-6
"""Relative variation below which a mixture counts as constant: float32 attention sums to one only to about 1e-7."""
_GREY: dict[str, Any] = {"color": "0.45", "linestyle": (0, (4, 3)), "linewidth": 1}


def percent(share: float) -> str:
    """Format a share in per cent; shares below 1 % have two significant digits."""
    return f"{share:.1%}" if share == 0 or abs(share) >= 0.01 else f"{100 * share:.2g}%"


def spectrum_figure(spectrum: ResidualSpectrum) -> Figure:
    """Plot the singular values of the residuals, per kernel and joint, and the cumulative energy.

    The joint curves are those of the output and input directions of all residuals together. If they rise as fast as
    the curve of a single kernel, the kernels share their directions, and one P and Q of DCD can represent them.
    """
    figure = new_figure(10.5, 4.6)
    values, energy = figure.subplots(1, 2)
    for index, kernel in enumerate(spectrum.per_kernel):
        label = f"each of the {len(spectrum.per_kernel)} kernels" if index == 0 else None
        _draw_spectrum(values, energy, kernel, COLOURS[5], 1.0, label)
    _draw_spectrum(values, energy, spectrum.inputs, COLOURS[1], 2.0, "all kernels, inputs")
    _draw_spectrum(values, energy, spectrum.outputs, COLOURS[0], 2.0, "all kernels, outputs")
    longest = max(len(spectrum.outputs), len(spectrum.inputs))
    for share in MARKED_SHARES:
        energy.axhline(share, **_GREY)
        energy.annotate(
            f"{share:.0%}", (longest, share), (6, -3), textcoords="offset points", va="top", ha="right", fontsize=8
        )
        for joint, colour in ((spectrum.inputs, COLOURS[1]), (spectrum.outputs, COLOURS[0])):
            count = directions_for_energy(joint, share)
            if count:
                height = float(cumulative_energy(joint)[count - 1])
                energy.plot(count, height, "o", color=colour, markersize=5, gid=f"mark-{share}")
    if spectrum.outputs[0] == 0:
        for axes in (values, energy):
            axes.text(0.5, 0.5, "the kernels are equal: no residual", transform=axes.transAxes, ha="center")
    ranks = f"{effective_rank(spectrum.outputs):.1f} outputs, {effective_rank(spectrum.inputs):.1f} inputs"
    style_axes(
        values,
        f"Singular values of the residuals\neffective rank: {ranks}",
        "relative to the largest",
        "direction, largest first",
    )
    needed = "\n".join(_energy_text(spectrum, share) for share in MARKED_SHARES)
    style_axes(energy, needed, "share of the energy", "number of directions, largest first")
    for axes in (values, energy):
        axes.set_xlim(0, longest + 1)
        axes.set_ylim(0, 1.04)
    energy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    handles, labels = values.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def error_curve_figure(curves: Sequence[DCDErrorCurve], default_latent_dim: int) -> Figure:
    """Plot the error of the best DCD fit found against the latent size, with and without Lambda, for one mixture.

    A band covers the middle 80 % of the samples, for the fit with Lambda if there is one, else for the first curve. The
    right axis shows the same errors relative to the varying part, |W(x) - mean of W(x)| over the batch; the mean kernel
    alone has 100 % there.

    Args:
        curves: Results of `dcd_error_curve`.
        default_latent_dim: The paper's choice, `dynaconv.families.dcd.default_latent_dim`, which the figure marks.

    Raises:
        ValueError: `curves` is empty, or the curves are of different mixtures.
    """
    if not curves:
        raise ValueError("`curves` is empty; pass results of `dcd_error_curve`.")
    static = curves[0].static_error
    if any(abs(curve.static_error - static) > 1e-9 for curve in curves):
        raise ValueError("`curves` are of different mixtures: their static errors differ; pass curves of one mixture.")
    figure = new_figure(8.5, 5)
    axes = figure.subplots()
    band_curve = max(curves, key=lambda entry: entry.scale)
    for curve in sorted(curves, key=lambda entry: entry.scale):
        sizes, errors, order = zip(
            *sorted(zip(curve.latent_dims, curve.errors, range(len(curve.errors)), strict=True)), strict=True
        )
        label, colour, marker = ("Λ W₀ + P Φ Qᵀ", COLOURS[0], "o") if curve.scale else ("W₀ + P Φ Qᵀ", COLOURS[1], "s")
        axes.plot(sizes, errors, color=colour, linewidth=2, marker=marker, markersize=5, label=label)
        if curve is band_curve:
            spread = torch.quantile(curve.sample_errors[list(order)], torch.tensor([0.1, 0.9]).double(), dim=1)
            low, high = spread.tolist()
            axes.fill_between(
                sizes, low, high, color=colour, alpha=0.12, linewidth=0, label="its middle 80% of samples"
            )
    axes.axhline(static, **_GREY, label="mean kernel alone")
    axes.axvline(default_latent_dim, color="0.75", linewidth=7, alpha=0.5, zorder=0, label="the paper's default L")
    style_axes(axes, _error_title(curves, default_latent_dim), "error relative to W(x)", "latent size L")
    axes.set_ylim(0, max(axes.get_ylim()[1], MIN_ERROR_LIMIT))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if axes.get_ylim()[1] > 0.05 else None))
    if static > CONSTANT_TOLERANCE:
        right = axes.secondary_yaxis("right", functions=(_times(1 / static), _times(static)))
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        right.set_ylabel("error relative to W(x) - mean of W(x)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def residual_figure(form: ResidualForm, attention: Tensor) -> Figure:
    """Plot the residual's share of |W(x)|^2 over the samples, and the cosines between the kernels' residuals.

    Args:
        form: Result of `residual_form`.
        attention: Attention of the samples, (B, K).
    """
    figure = new_figure(10.5, 4.6)
    shares, cosines = figure.subplots(1, 2, width_ratios=(1.2, 1))
    energy = form.energy_share(attention).double().sort().values
    median = float(energy.median())
    position = torch.arange(1, len(energy) + 1) / len(energy)
    shares.plot(energy.tolist(), position.tolist(), drawstyle="steps-post", color=COLOURS[0], linewidth=2)
    shares.axvline(median, **_GREY)
    style_axes(
        shares,
        f"The residual has {percent(median)} of |W(x)|²\nmedian of {len(energy)} samples, dashed",
        "share of the samples with at most this much",
        "|residual|² / |W(x)|²",
    )
    shares.xaxis.set_major_locator(AutoLocator())
    shares.xaxis.set_major_formatter(PercentFormatter(1.0))
    shares.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    shares.set_ylim(0, 1.03)
    shares.set_xlim(left=0)
    _cosine_map(figure, cosines, form.cosine_similarity())
    return figure


def _draw_spectrum(values: Axes, energy: Axes, spectrum: Tensor, colour: str, width: float, label: str | None) -> None:
    """Draw one curve in each panel; a zero residual has none."""
    if spectrum[0] == 0:
        return
    directions = range(1, len(spectrum) + 1)
    values.plot(directions, (spectrum / spectrum[0]).tolist(), color=colour, linewidth=width, label=label)
    energy.plot(directions, cumulative_energy(spectrum).tolist(), color=colour, linewidth=width)


def _energy_text(spectrum: ResidualSpectrum, share: float) -> str:
    """Return text such as `90% of the energy: 5 of 32 outputs, 7 of 24 inputs`."""
    counts = [
        f"{directions_for_energy(values, share)} of {len(values)} {side}"
        for values, side in ((spectrum.outputs, "outputs"), (spectrum.inputs, "inputs"))
    ]
    return f"{share:.0%} of the energy: {', '.join(counts)}"


def _error_title(curves: Sequence[DCDErrorCurve], latent_dim: int) -> str:
    """Return the title: the error of the best curve at the paper's L, or at the nearest fitted size."""
    best = min(curves, key=lambda curve: min(curve.errors))
    index = min(range(len(best.latent_dims)), key=lambda i: abs(best.latent_dims[i] - latent_dim))
    if best.static_error <= CONSTANT_TOLERANCE:
        return "W(x) is the same for every sample: there is nothing to fit"
    shares = f"{best.errors[index]:.1%} of W(x), {best.residual_errors[index]:.1%} of what varies"
    return f"With L = {best.latent_dims[index]} the best DCD found misses {shares}"


def _cosine_map(figure: Figure, axes: Axes, cosines: Tensor) -> None:
    count = len(cosines)
    image = axes.imshow(cosines.numpy(force=True), cmap="RdBu_r", vmin=-1, vmax=1)
    apart = cosines[~torch.eye(count, dtype=torch.bool)]
    subtitle = "one kernel"
    if count > 1:
        subtitle = (
            f"from {float(apart.min()):.2f} to {float(apart.max()):.2f}; around {-1 / (count - 1):.2f} if unrelated"
        )
    axes.set_title(f"Cosines between the kernels' residuals\n{subtitle}", **TITLE_STYLE)
    axes.set_xlabel("kernel")
    axes.set_ylabel("kernel")
    names = [str(k + 1) for k in range(count)]
    axes.set_xticks(range(count), names)
    axes.set_yticks(range(count), names)
    if count <= 8:
        for row, values in enumerate(cosines.tolist()):
            for column, value in enumerate(values):
                shade = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=9)
    figure.colorbar(image, ax=axes, label="cosine", pad=0.02)


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: values * factor
