from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.explain.drawn import assert_drawn
from tests.messages import refuses
from torch import Tensor

from dynaconv.explain.dcd_fit import dcd_error_curve
from dynaconv.explain.decomposition import residual_form
from dynaconv.explain.decomposition_figures import error_curve_figure, residual_figure, spectrum_figure
from dynaconv.explain.decomposition_spectrum import directions_for_energy, residual_spectrum


def _kernels(num_kernels: int = 4, rows: int = 10, columns: int = 8) -> Tensor:
    return torch.randn(num_kernels, rows, columns, 1, 1, generator=torch.Generator().manual_seed(0))


def _attention(num_kernels: int = 4, batch: int = 12) -> Tensor:
    return (2 * torch.randn(batch, num_kernels, generator=torch.Generator().manual_seed(1))).softmax(1)


@pytest.mark.parametrize(("num_kernels", "rows", "columns"), [(1, 10, 8), (4, 10, 8), (16, 120, 100)])
def test_spectra_are_drawn(num_kernels: int, rows: int, columns: int, tmp_path: Path) -> None:
    assert_drawn(spectrum_figure(residual_spectrum(_kernels(num_kernels, rows, columns))), tmp_path / "s.png")


def test_the_marks_stand_where_the_energy_is_reached() -> None:
    spectrum = residual_spectrum(_kernels())
    energy = spectrum_figure(spectrum).axes[1]
    marks = {(line.get_gid(), line.get_xdata()[0]) for line in energy.get_lines() if line.get_gid()}
    sides = (spectrum.inputs, spectrum.outputs)
    assert marks == {(f"mark-{share}", directions_for_energy(side, share)) for share in (0.9, 0.99) for side in sides}
    outputs, inputs = (directions_for_energy(side, 0.9) for side in (spectrum.outputs, spectrum.inputs))
    assert f"90% of the energy: {outputs} of 10 outputs, {inputs} of 8 inputs" in energy.get_title(loc="left")


def test_error_curves_are_drawn_with_the_finding_and_both_scales(tmp_path: Path) -> None:
    kernels, attention = _kernels(), _attention()
    curves = [dcd_error_curve(kernels, attention, [4, 0, 2], scale=scale, max_steps=20) for scale in (True, False)]
    figure = error_curve_figure(curves, 2)
    axes = figure.axes[0]
    title = axes.get_title(loc="left")
    assert title.startswith(f"With L = 2 the best DCD found misses {curves[0].errors[2]:.1%} of W(x)")
    assert f"{curves[0].residual_errors[2]:.1%} of what varies" in title
    plain, with_lambda = axes.get_lines()[:2]
    assert list(with_lambda.get_xdata()) == [0, 2, 4]
    assert list(with_lambda.get_ydata()) == [curves[0].errors[index] for index in (1, 2, 0)]
    assert list(plain.get_ydata()) == [curves[1].errors[index] for index in (1, 2, 0)]
    figure.draw_without_rendering()
    (right,) = axes.child_axes
    assert right.get_ylim()[1] == pytest.approx(axes.get_ylim()[1] / curves[0].static_error)
    assert_drawn(figure, tmp_path / "c.png")


def test_a_mixture_that_does_not_vary_is_drawn_too(tmp_path: Path) -> None:
    kernels, attention = _kernels()[:1].repeat(4, 1, 1, 1, 1), _attention()
    spectrum = spectrum_figure(residual_spectrum(kernels))
    assert [axes.texts[-1].get_text() for axes in spectrum.axes] == ["the kernels are equal: no residual"] * 2
    assert_drawn(spectrum, tmp_path / "s.png")
    assert_drawn(residual_figure(residual_form(kernels), attention), tmp_path / "r.png")
    curve = error_curve_figure([dcd_error_curve(kernels, attention, [0, 1])], 2)
    assert "the same for every sample" in curve.axes[0].get_title(loc="left")
    assert_drawn(curve, tmp_path / "c.png")


@pytest.mark.parametrize("num_kernels", [1, 4, 20])
def test_residuals_are_drawn(num_kernels: int, tmp_path: Path) -> None:
    form, attention = residual_form(_kernels(num_kernels)), _attention(num_kernels)
    figure = residual_figure(form, attention)
    median = float(form.energy_share(attention).median())
    assert f"{median:.1%} of |W(x)|²" in figure.axes[0].get_title(loc="left")
    assert_drawn(figure, tmp_path / "r.png")


def test_curves_of_different_mixtures_are_refused() -> None:
    curves = [dcd_error_curve(_kernels(rows=rows), _attention(), [0], scale=False) for rows in (6, 7)]
    with refuses(ValueError):
        error_curve_figure(curves, 2)
    with refuses(ValueError, "curves"):
        error_curve_figure([], 2)
