"""The report of an analysis: one HTML file with embedded figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynaconv.errors import listed
from dynaconv.explain.analyze.decompose import FIT_SAMPLES, MAX_NUMEL_FIT, MAX_NUMEL_WITH_SCALE
from dynaconv.explain.analyze.result import NetworkAnalysis
from dynaconv.explain.analyze.text import depth_caption, introduction, suppression_results, usage_caption
from dynaconv.explain.decomposition_figures import error_curve_figure, percent, residual_figure, spectrum_figure
from dynaconv.explain.figures import class_coefficients
from dynaconv.explain.freezing import HEADER as FREEZING_HEADER
from dynaconv.explain.report import embedded_figure, render
from dynaconv.explain.statistics_figures import coefficients_by_depth, kernel_usage, suppression_scatter
from dynaconv.explain.statistics_table import HEADER, cells
from dynaconv.explain.suppression import Suppression

SUMMARY = (
    "network",
    "accuracy",
    "dynamic layers",
    "kernel movement",
    "lost if all are frozen",
    "predictions changed",
    "class explains",
    "kernels used",
    "input decides",
    "residual",
    "gradient follows coefficient",
    "weakest / strongest",
)

NOT_APPLICABLE = "\N{EN DASH}"
"""Cell of a network that the row does not apply to."""


def report_html(networks: Sequence[NetworkAnalysis], facts_of_run: Mapping[str, str]) -> str:
    """Return the HTML of the report.

    Args:
        networks: Analyses of at least one network.
        facts_of_run: Terms and values for the last section, including `Command` and `dynaconv`.
    """
    models = listed(dict.fromkeys(network.model for network in networks), quote=False)
    summary = list(zip(SUMMARY, *map(summary_cells, networks), strict=True))
    measured = {network.title: network.suppression for network in networks if network.suppression is not None}
    return render(
        "explain/analyze/report.html",
        title=f"What {models} {'computes' if len(networks) == 1 else 'compute'}",
        facts=facts_of_run,
        introduction=introduction(networks),
        networks=networks,
        summary=[row for row in summary if set(row[1:]) != {NOT_APPLICABLE}],
        statistics_header=HEADER,
        freezing_header=FREEZING_HEADER,
        views=[_view(network) for network in networks],
        sentence_case=lambda title: title[0].upper() + title[1:] if len(networks) == 1 else title,
        fit_samples=FIT_SAMPLES,
        max_numel_with_scale=MAX_NUMEL_WITH_SCALE,
        max_numel_fit=MAX_NUMEL_FIT,
        suppression_results=suppression_results(networks),
        scatter=embedded_figure(suppression_scatter(measured)) if measured else None,
        suppression_rows=_suppression_rows(measured),
    )


def _view(network: NetworkAnalysis) -> dict[str, Any]:
    """Return the tables and figures of one network, and what their captions need."""
    layers, names = network.statistics.layers, network.statistics.class_names
    shown = next(layer for layer in layers if layer.name == network.shown)
    view: dict[str, Any] = {
        "title": network.title,
        "statistics": [
            [(layer.name or layer.kind) if index == 0 else "", *cells(layer, name)]
            for layer in layers
            for index, name in enumerate(layer.parts)
        ],
        "by_depth": embedded_figure(coefficients_by_depth(network.statistics)),
        "depth_caption": depth_caption(network),
        "usage": None,
        "by_class": embedded_figure(
            class_coefficients([layer.coefficients for layer in layers], names, layer=network.shown)
        ),
        "shown": network.shown or shown.kind,
        "chance": f"{next(iter(shown.parts.values())).values.share_by_chance:.1%}",
        "freezing": network.freezing.rows(),
        "decompositions": _decomposition_rows(network),
        "detail": network.detail,
    }
    if any(layer.kernels is not None for layer in layers):
        view |= {
            "usage": embedded_figure(kernel_usage(network.statistics)),
            "usage_caption": usage_caption(network),
        }
    if (detail := network.detail) is not None:
        latent = detail.layer.latent_dim
        view |= {
            "residual": embedded_figure(residual_figure(detail.form, detail.attention)),
            "spectrum": detail.spectrum and embedded_figure(spectrum_figure(detail.spectrum)),
            "curves": detail.curves and embedded_figure(error_curve_figure(detail.curves, latent)),
            "fitted_scale": any(curve.scale for curve in detail.curves),
        }
    return view


def _decomposition_rows(network: NetworkAnalysis) -> list[list[str]]:
    return [
        [
            layer.name,
            "x".join(map(str, layer.shape)),
            percent(layer.energy_share),
            f"{layer.effective_rank:.1f}",
            str(layer.directions),
            str(layer.outputs),
            str(layer.latent_dim),
        ]
        for layer in network.decompositions
    ]


def summary_cells(network: NetworkAnalysis) -> list[str]:
    """Return the network's column of the summary table."""
    layers = network.statistics.layers
    shares = [layer.coefficients.share_between for layer in layers]
    uses = [use for layer in layers if (use := layer.kernels) is not None]
    used = dependence = residual = NOT_APPLICABLE
    if uses:
        used = f"{_mean([use.effective_kernels for use in uses]):.1f} of {_mean([len(use.usage) for use in uses]):g}"
        dependence = f"{_mean([use.dependence for use in uses]):.2g}"
    if network.decompositions:
        residual = percent(_mean([layer.energy_share for layer in network.decompositions]))
    suppression = network.suppression
    return [
        network.title,
        f"{network.accuracy:.1%}",
        str(len(layers)),
        *_freezing_cells(network),
        f"{_mean(shares):.0%}",
        used,
        dependence,
        residual,
        _format_average(suppression, "own_correlation", "+.2f"),
        _format_average(suppression, "gradient_ratio", ".2f"),
    ]


def _freezing_cells(network: NetworkAnalysis) -> list[str]:
    movement, effect = network.freezing.movement, network.freezing.all_frozen
    if movement is None:
        return [NOT_APPLICABLE] * 3
    return [f"{movement:.1%}", f"{100 * effect.cost:+.1f} points", f"{effect.changed / effect.images:.1%}"]


def _suppression_rows(measured: Mapping[str, Suppression]) -> list[list[str]]:
    rows = []
    for title, suppression in measured.items():
        for layer in suppression.layers:
            mixture = layer.method == "mixture"
            rows.append(
                [
                    f"{title}, {layer.name}" if len(measured) > 1 else layer.name,
                    str(len(layer.outputs.own)),
                    _format(layer.own_correlation, "+.2f"),
                    _format(layer.attention_correlation, "+.2f") if mixture else "",
                    "" if mixture else _format(layer.correlation, "+.2f"),
                    _format(layer.gradient_ratio, ".2f"),
                    _format(layer.coefficient_ratio, ".2f"),
                ]
            )
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _format_average(suppression: Suppression | None, key: str, form: str) -> str:
    return "not measured" if suppression is None else _format(suppression.average(key), form)


def _format(value: float | None, form: str) -> str:
    return "not defined" if value is None or value != value else format(value, form)
