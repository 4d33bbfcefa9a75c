"""The report of an analysis: one HTML file with embedded figures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from dynaconv.errors import listed
from dynaconv.explain.analyze.result import NetworkAnalysis
from dynaconv.explain.analyze.text import (
    SUPPRESSION_LIMITS,
    classes_caption,
    curve_caption,
    decomposition_caption,
    depth_caption,
    introduction,
    residual_caption,
    spectrum_caption,
    suppression_captions,
    usage_caption,
)
from dynaconv.explain.decomposition_figures import error_curve_figure, percent, residual_figure, spectrum_figure
from dynaconv.explain.figures import class_coefficients, save
from dynaconv.explain.report import Html, Section, facts, figure, join, page, paragraph, table, text
from dynaconv.explain.statistics_figures import coefficients_by_depth, kernel_usage, suppression_scatter
from dynaconv.explain.statistics_table import HEADER, cells
from dynaconv.explain.suppression import Suppression

SUMMARY = (
    "network",
    "accuracy",
    "dynamic layers",
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
    sections = [Section(title="Summary", body=_summary(networks))]
    for network in networks:
        sections += _sections(network, f"{network.title}: " if len(networks) > 1 else "")
    sections.append(Section(title="Do small coefficients hold back learning?", body=_suppression(networks)))
    sections.append(Section(title="What was run", body=facts(facts_of_run, as_code=("Command",))))
    models = listed(dict.fromkeys(network.model for network in networks), quote=False)
    lead = join([paragraph(plain, kind="lead") for plain in introduction(networks)])
    footer = Html(f"Written by dynaconv {text(facts_of_run['dynaconv'])}. This file contains everything on the page.")
    verb = "computes" if len(networks) == 1 else "compute"
    return page(f"What {models} {verb}", lead=lead, sections=sections, footer=footer)


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
        f"{_mean(shares):.0%}",
        used,
        dependence,
        residual,
        _format_average(suppression, "own_correlation", "+.2f"),
        _format_average(suppression, "gradient_ratio", ".2f"),
    ]


def _summary(networks: Sequence[NetworkAnalysis]) -> Html:
    images = networks[0].statistics.images
    caption = (
        f"All values are averaged over the dynamic layers and measured on {images:,} images. Class explains: share of "
        "the variance of the coefficients between classes. Kernels used: exp of the entropy of their mean shares. "
        "Input decides: entropy of the mean shares minus mean entropy, divided by log K; 0 if every image has the same "
        "mixture. Residual: |residual|² as a share of |W(x)|². Gradient follows coefficient: rank correlation between "
        "the gradient of a latent direction and its own coefficient. Weakest / strongest: mean gradient of the quarter "
        "of directions with the smallest own coefficients over that of the quarter with the largest."
    )
    columns = [summary_cells(network) for network in networks]
    header, *rows = [[term, *cells_] for term, *cells_ in zip(SUMMARY, *columns, strict=True)]
    return table(header, [row for row in rows if set(row[1:]) != {NOT_APPLICABLE}], caption=caption)


def _sections(network: NetworkAnalysis, prefix: str) -> list[Section]:
    statistics = network.statistics
    rows = [
        [layer.name or layer.kind, *cells(layer, name)] if index == 0 else ["", *cells(layer, name)]
        for layer in statistics.layers
        for index, name in enumerate(layer.parts)
    ]
    body = [
        table(HEADER, rows, caption="sd: over the images, per element; class: share of the variance between classes."),
        _embedded(coefficients_by_depth(statistics), "Distribution by depth", depth_caption(network)),
    ]
    sections = [Section(title=_title(prefix, "what each layer computes"), body=join(body))]
    if any(layer.kernels is not None for layer in statistics.layers):
        usage = _embedded(kernel_usage(statistics), "Mean share of each kernel by layer", usage_caption(network))
        sections.append(Section(title=_title(prefix, "which kernels are used"), body=usage))
    drawn = class_coefficients(
        [layer.coefficients for layer in statistics.layers], statistics.class_names, layer=network.shown
    )
    shown = _embedded(drawn, "Coefficients by class", classes_caption(network))
    sections.append(Section(title=_title(prefix, "what depends on the class"), body=shown))
    if network.decompositions:
        sections.append(Section(title=_title(prefix, "kernels taken apart"), body=_decomposition(network)))
    return sections


def _title(prefix: str, title: str) -> str:
    return f"{prefix}{title}" if prefix else title[0].upper() + title[1:]


def _decomposition(network: NetworkAnalysis) -> Html:
    header = ("layer", "kernels", "residual", "effective rank", "90 % of energy in", "of", "the paper's L")
    rows = [
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
    parts = [table(header, rows, caption=decomposition_caption())]
    detail = network.detail
    if detail is not None:
        parts.append(Html(f"<h3>{text(detail.layer.name)} in detail</h3>"))
        drawn = residual_figure(detail.form, detail.attention)
        parts.append(_embedded(drawn, "Share of the residual, and cosines", residual_caption(detail)))
        if detail.spectrum is not None:
            drawn = spectrum_figure(detail.spectrum)
            parts.append(_embedded(drawn, "Singular values of the residuals", spectrum_caption(detail)))
        if detail.curves:
            drawn = error_curve_figure(detail.curves, detail.layer.latent_dim)
            parts.append(_embedded(drawn, "Error of the best DCD by latent size", curve_caption(detail)))
    return join(parts)


def _suppression(networks: Sequence[NetworkAnalysis]) -> Html:
    measured = {network.title: network.suppression for network in networks if network.suppression is not None}
    parts = [paragraph(plain) for plain in suppression_captions(networks)]
    if measured:
        parts.append(_embedded(suppression_scatter(measured), "Gradient against coefficient", ""))
        parts.append(_suppression_table(measured))
        parts.append(paragraph(SUPPRESSION_LIMITS, kind="note"))
    parts += [
        paragraph(f"{network.title}: {network.no_suppression}", kind="note")
        for network in networks
        if network.no_suppression
    ]
    for title, suppression in measured.items():
        if suppression.skipped:
            names = "; ".join(f"{name}: {reason}" for name, reason in suppression.skipped.items())
            parts.append(paragraph(f"Left out in {title}: {names}.", kind="note"))
    return join(parts)


def _suppression_table(measured: Mapping[str, Suppression]) -> Html:
    header = ("layer", "directions", "own", "attention alone", "row of Φ", "weakest / strongest", "own coefficients")
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
    caption = (
        "Rank correlations of the gradient of a direction with its own coefficient (π s, or |Φⱼⱼ|), with the attention "
        "alone, and with its whole row (or column) of Φ. The last two columns are ratios of the quarter of directions "
        "with the smallest own coefficients to the quarter with the largest: of the mean gradient and of the mean "
        "coefficient."
    )
    return table(header, rows, caption=caption)


def _embedded(drawn: Figure, alt: str, caption: str) -> Html:
    with tempfile.TemporaryDirectory() as folder:
        return figure(save(drawn, Path(folder) / "figure.png"), alt=alt, caption=caption)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _format_average(suppression: Suppression | None, key: str, form: str) -> str:
    return "not measured" if suppression is None else _format(suppression.average(key), form)


def _format(value: float | None, form: str) -> str:
    return "not defined" if value is None or value != value else format(value, form)
