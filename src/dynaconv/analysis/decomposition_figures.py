"""Figures of mixtures of kernels taken apart: spectra, what the best DCD misses, how large and alike residuals are.

Each function returns a `matplotlib.figure.Figure`; `dynaconv.analysis.figures.save` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, PercentFormatter
from torch import Tensor

from dynaconv.analysis.dcd_fit import DCDErrorCurve
from dynaconv.analysis.decomposition import ResidualForm
from dynaconv.analysis.decomposition_spectrum import (
    ResidualSpectrum,
    cumulative_energy,
    directions_for_energy,
    effective_rank,
)
from dynaconv.analysis.figures import _TITLE, COLOURS, _figure, _style

MARKS = (0.9, 0.99)
"""Shares of the energy that are marked."""
SMALLEST_SCALE = 1e-3
"""Errors are not stretched beyond an axis that ends here."""
ROUNDING = 1e-6
"""A mixture that varies less, relative to its size, does not vary: float32 attention sums to one to about 1e-7."""
_GREY: dict[str, Any] = {"color": "0.45", "linestyle": (0, (4, 3)), "linewidth": 1}


def percent(share: float) -> str:
    """A share in per cent, small ones with two digits that say something."""
    return f"{share:.1%}" if share == 0 or abs(share) >= 0.01 else f"{100 * share:.2g}%"


def spectrum_figure(spectrum: ResidualSpectrum) -> Figure:
    """Singular values of the residuals, each kernel's and joint, and the energy in the largest of them.

    The joint curves are those of the directions all residuals together write to (outputs) and read from (inputs).
    Where they rise as fast as a single kernel's, the kernels share their directions: what P and Q of a DCD hold.
    """
    figure = _figure(10.5, 4.6)
    values, energy = figure.subplots(1, 2)
    for index, kernel in enumerate(spectrum.per_kernel):
        label = f"each of the {len(spectrum.per_kernel)} kernels" if index == 0 else None
        _draw_spectrum(values, energy, kernel, COLOURS[5], 1.0, label)
    _draw_spectrum(values, energy, spectrum.inputs, COLOURS[1], 2.0, "all kernels, inputs")
    _draw_spectrum(values, energy, spectrum.outputs, COLOURS[0], 2.0, "all kernels, outputs")
    longest = max(len(spectrum.outputs), len(spectrum.inputs))
    for share in MARKS:
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
    _style(
        values,
        f"Singular values of the residuals\neffective rank: {ranks}",
        "relative to the largest",
        "direction, largest first",
    )
    needed = "\n".join(_needed(spectrum, share) for share in MARKS)
    _style(energy, needed, "share of the energy", "number of directions, largest first")
    for axes in (values, energy):
        axes.set_xlim(0, longest + 1)
        axes.set_ylim(0, 1.04)
    energy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    handles, labels = values.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def error_curve_figure(curves: Sequence[DCDErrorCurve], default_latent_dim: int) -> Figure:
    """Error of the best DCD found against the latent size, for fits with and without Lambda of the same mixture.

    A band holds the middle 80 % of the samples of the fit with Lambda, or of the first. The right axis shows the same
    errors relative to what varies, |W(x) - mean of W(x)| over the batch: the mean kernel alone stands at 100 % there.

    Args:
        curves: As `dcd_error_curve` gives them.
        default_latent_dim: The paper's choice, `dynaconv.families.dcd.default_latent_dim`; it is marked.

    Raises:
        ValueError: No curve, or curves of different mixtures.
    """
    if not curves:
        raise ValueError("`curves` is empty; pass what `dcd_error_curve` returns.")
    static = curves[0].static_error
    if any(abs(curve.static_error - static) > 1e-9 for curve in curves):
        raise ValueError("the curves are of different mixtures: their mean kernels have different errors.")
    figure = _figure(8.5, 5)
    axes = figure.subplots()
    banded = max(curves, key=lambda entry: entry.scale)
    for curve in sorted(curves, key=lambda entry: entry.scale):
        sizes, errors, order = zip(
            *sorted(zip(curve.latent_dims, curve.errors, range(len(curve.errors)), strict=True)), strict=True
        )
        label, colour, marker = ("Λ W₀ + P Φ Qᵀ", COLOURS[0], "o") if curve.scale else ("W₀ + P Φ Qᵀ", COLOURS[1], "s")
        axes.plot(sizes, errors, color=colour, linewidth=2, marker=marker, markersize=5, label=label)
        if curve is banded:
            spread = torch.quantile(curve.sample_errors[list(order)], torch.tensor([0.1, 0.9]).double(), dim=1)
            low, high = spread.tolist()
            axes.fill_between(
                sizes, low, high, color=colour, alpha=0.12, linewidth=0, label="its middle 80% of samples"
            )
    axes.axhline(static, **_GREY, label="mean kernel alone")
    axes.axvline(default_latent_dim, color="0.75", linewidth=7, alpha=0.5, zorder=0, label="the paper's default L")
    _style(axes, _missed(curves, default_latent_dim), "error relative to W(x)", "latent size L")
    axes.set_ylim(0, max(axes.get_ylim()[1], SMALLEST_SCALE))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if axes.get_ylim()[1] > 0.05 else None))
    if static > ROUNDING:
        right = axes.secondary_yaxis("right", functions=(_times(1 / static), _times(static)))
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        right.set_ylabel("error relative to what varies")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def residual_figure(form: ResidualForm, attention: Tensor) -> Figure:
    """How much of W(x) the residual is, over the samples, and how alike the kernels' residuals are.

    Args:
        form: As `residual_form` gives it.
        attention: (B, K).
    """
    figure = _figure(10.5, 4.6)
    shares, likeness = figure.subplots(1, 2, width_ratios=(1.2, 1))
    energy = form.energy_share(attention).double().sort().values
    median = float(energy.median())
    position = torch.arange(1, len(energy) + 1) / len(energy)
    shares.plot(energy.tolist(), position.tolist(), drawstyle="steps-post", color=COLOURS[0], linewidth=2)
    shares.axvline(median, **_GREY)
    _style(
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
    _cosine_map(figure, likeness, form.cosine_similarity())
    return figure


def _draw_spectrum(values: Axes, energy: Axes, spectrum: Tensor, colour: str, width: float, label: str | None) -> None:
    """One curve in each panel; a residual that is zero has none."""
    if spectrum[0] == 0:
        return
    directions = range(1, len(spectrum) + 1)
    values.plot(directions, (spectrum / spectrum[0]).tolist(), color=colour, linewidth=width, label=label)
    energy.plot(directions, cumulative_energy(spectrum).tolist(), color=colour, linewidth=width)


def _needed(spectrum: ResidualSpectrum, share: float) -> str:
    """Such as `90% of the energy: 5 of 32 outputs, 7 of 24 inputs`."""
    counts = [
        f"{directions_for_energy(values, share)} of {len(values)} {side}"
        for values, side in ((spectrum.outputs, "outputs"), (spectrum.inputs, "inputs"))
    ]
    return f"{share:.0%} of the energy: {', '.join(counts)}"


def _missed(curves: Sequence[DCDErrorCurve], latent_dim: int) -> str:
    """What the best curve misses at the paper's L, or at the nearest size that was fitted."""
    best = min(curves, key=lambda curve: min(curve.errors))
    index = min(range(len(best.latent_dims)), key=lambda i: abs(best.latent_dims[i] - latent_dim))
    if best.static_error <= ROUNDING:
        return "W(x) is the same for every sample: there is nothing to fit"
    shares = f"{best.errors[index]:.1%} of W(x), {best.residual_errors[index]:.1%} of what varies"
    return f"With L = {best.latent_dims[index]} the best DCD found misses {shares}"


def _cosine_map(figure: Figure, axes: Axes, cosines: Tensor) -> None:
    count = len(cosines)
    image = axes.imshow(cosines.numpy(force=True), cmap="RdBu_r", vmin=-1, vmax=1)
    apart = cosines[~torch.eye(count, dtype=torch.bool)]
    found = "one kernel"
    if count > 1:
        found = f"from {float(apart.min()):.2f} to {float(apart.max()):.2f}; around {-1 / (count - 1):.2f} if unrelated"
    axes.set_title(f"Cosines between the kernels' residuals\n{found}", **_TITLE)
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
