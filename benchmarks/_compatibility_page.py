"""The compatibility table as a page and as comma-separated values."""

from collections.abc import Callable, Sequence
from pathlib import Path

from _compatibility_checks import BATCHES, LIMIT, WHOLE, Outcome
from _compatibility_networks import Network
from _families import labels

from dynaconv.markdown import markdown_table
from dynaconv.markdown import write_page as write_blocks

FAMILIES = labels()
KEPT = 1e-10
"""The largest difference before training that counts as the same function, in float64."""
_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_NOT_RUN = "not run"
_SHOWN = 200
"""Characters of an error; the comma-separated values have more of it."""
_Results = dict[tuple[str, str], Outcome]


def write_page(page: Path, networks: Sequence[Network], results: _Results) -> None:
    """Write the page.

    Args:
        page: Markdown file.
        networks: The rows of the tables; networks without results are left out.
        results: Outcomes by network and family.
    """
    shown = [each for each in networks if any((each.key, family) in results for family in FAMILIES)]
    parts = [
        _introduction(shown),
        _summary(shown, results),
        _conversions(shown, results),
        _runtimes(shown, results),
        _failures(shown, results),
        _conditions(shown, results),
    ]
    write_blocks(page, parts)


def _introduction(networks: Sequence[Network]) -> str:
    libraries = sorted({each.library for each in networks})
    batches = ", ".join(map(str, BATCHES))
    return f"""# Compatibility

Report. {len(networks)} networks of {", ".join(libraries)}, each made dynamic by `dynaconv.convert(model, family)` with
default options. All start from random weights: the page reports function, not accuracy. It is written by

```bash
python benchmarks/compatibility.py --jobs 2
```

from the numbers in [data/compatibility.csv](data/compatibility.csv). For each network and family:

- **converted**: number of the network's convolutions that become dynamic. The others are stems, gates, or kinds that
  the family leaves static: depthwise convolutions (DCD and SE, by default), transposed ones (ODConv and SE have none);
  `plan_conversion` gives the reason for each. A family for which no convolution remains is not counted: FDConv has
  layers for kernels of 1 and 3 in two dimensions.
- **difference**: max|dynamic - static| / max|static| over the outputs in eval mode before any training: in float32, and
  converted and computed in float64. Up to {KEPT:.0e} in float64 it is the same function, and float32 adds its rounding:
  **own rounding** is the difference of the static network in float32 and in float64, on the same images. If it is
  near 1e-5, as in networks that narrow and widen often at random weights, so is the difference.
  Every batch norm has the statistics of three passes, and layers that start from zero were given other values, so
  that no layer is hidden.
- **trained**: two steps of Adam in train mode on four images, at a rate of 1e-4, and of 0.05 in the branches (ODConv,
  FDConv and SE: 0.005), so that coefficients soon depend on the image. The loss stays finite, parameters move, a
  gradient reaches the branch of every dynamic layer, and afterwards the coefficients of every layer that the exported
  part runs differ between images by more than 1e-4. Otherwise their numbers are given: in narrow branches with random
  weights at most one hidden unit may be active, whose value, normalised to length one, is the same for all images.
- **ONNX Runtime, OpenVINO**: after the training steps, so that kernels do depend on the image. `export_onnx` writes one
  file with a free batch and verifies it; that file then runs at batch sizes {batches} in both runtimes on new
  images. The number is the largest max|runtime - eager| / max|eager| over outputs and batch sizes; more than
  {LIMIT:.0e} is a failure."""


def _summary(networks: Sequence[Network], results: _Results) -> str:
    columns: dict[str, Callable[[Outcome], bool | None]] = {
        "converted": lambda each: each.converted is not None,
        "same function": lambda each: None if each.exact_difference is None else each.exact_difference <= KEPT,
        "trains": lambda each: each.loss is not None,
        "every layer reached and varying": lambda each: each.reached == each.varying == each.converted,
        **{label: _runs_in(name) for name, label in _RUNTIMES.items()},
    }
    rows = []
    for family, label in FAMILIES.items():
        found = [results[each.key, family] for each in networks if (each.key, family) in results]
        tried = [each for each in found if each.converted != 0]
        cells = []
        for holds in columns.values():
            answers = [answer for answer in map(holds, tried) if answer is not None]
            cells.append(f"{sum(answers)} of {len(answers)}" if answers else _NOT_RUN)
        rows.append([label, *cells])
    return _section("Summary", "Networks for which it holds, of those that were tried.", ["family", *columns], rows)


def _section(title: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"## {title}\n\n{text}\n\n" + "\n".join(markdown_table(columns, rows))


def _runs_in(name: str) -> Callable[[Outcome], bool | None]:
    def answer(outcome: Outcome) -> bool | None:
        values: list[float] | None = getattr(outcome, name)
        if values is not None:
            return max(values) <= LIMIT
        return False if outcome.errors.keys() - {WHOLE} else None

    return answer


def _conversions(networks: Sequence[Network], results: _Results) -> str:
    rows = []
    for network in networks:
        found = {family: results.get((network.key, family)) for family in FAMILIES}
        ran = [each for each in found.values() if each is not None]
        rows.append(
            [
                _name(network),
                "x".join(map(str, network.shape[1:])),
                str(max((each.convolutions or 0 for each in ran), default=0)),
                *(_converted(each) for each in found.values()),
                _largest([each.difference for each in ran]),
                _largest([each.static_rounding for each in ran]),
                _largest([each.exact_difference for each in ran]),
                _trained(found),
            ]
        )
    text = "Under a family: convolutions converted. The differences are the largest over the families."
    columns = ["network", "input", "convolutions", *FAMILIES.values(), "float32", "own rounding", "float64", "trained"]
    return _section("Conversion and training", text, columns, rows)


def _largest(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.1e}" if known else _NOT_RUN


def _converted(outcome: Outcome | None) -> str:
    if outcome is None:
        return _NOT_RUN
    return "failed" if outcome.converted is None else str(outcome.converted)


def _trained(found: dict[str, Outcome | None]) -> str:
    """For each family the layers reached or varying where that is not all; one word where all is well."""
    cells: list[str] = []
    for family, each in found.items():
        if each is None or each.converted == 0:
            continue
        if each.loss is None:
            cells.append(f"{FAMILIES[family]} failed")
        elif not each.reached == each.varying == each.converted:
            cells.append(f"{FAMILIES[family]} {each.reached} reached, {each.varying} vary")
    missing = [FAMILIES[family] for family, each in found.items() if each is None]
    cells += [f"{', '.join(missing)} {_NOT_RUN}"] if missing else []
    return "; ".join(cells) or "all"


def _runtimes(networks: Sequence[Network], results: _Results) -> str:
    rows = [
        [_name(network), *(_runtime_cell(results.get((network.key, family))) for family in FAMILIES)]
        for network in networks
    ]
    notes = [f"- {_name(each)}: {each.note}." for each in networks if each.note]
    text = f"Largest difference at batch sizes {', '.join(map(str, BATCHES))}: ONNX Runtime / OpenVINO."
    return "\n".join([_section("Runtimes", text, ["network", *FAMILIES.values()], rows), "", *notes])


def _runtime_cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return _NOT_RUN
    if outcome.converted == 0:
        return ""
    cells = []
    for name in _RUNTIMES:
        values = getattr(outcome, name)
        if values is not None:
            cells.append(f"{max(values):.1e}" if max(values) <= LIMIT else f"**{max(values):.1e}**")
        else:
            cells.append("failed" if outcome.errors.keys() - {WHOLE} else _NOT_RUN)
    return cells[0] if cells == [_NOT_RUN] * 2 else " / ".join(cells)


def _failures(networks: Sequence[Network], results: _Results) -> str:
    lines = ["## Failures", ""]
    for network in networks:
        by_cause: dict[tuple[str, str], list[str]] = {}
        for family in FAMILIES:
            outcome = results.get((network.key, family))
            for step, error in _problems(outcome):
                by_cause.setdefault((step, error), []).append(FAMILIES[family])
        for (step, error), families in by_cause.items():
            twin = _static_twin(results.get((network.key, "static")), step)
            lines.append(f"- {_name(network)}, {', '.join(families)}: {step}: {error}. {twin}".rstrip())
    if len(lines) == 2:
        lines.append("None.")
    return "\n".join(lines)


def _problems(outcome: Outcome | None) -> list[tuple[str, str]]:
    if outcome is None:
        return []
    found = [(step, _quoted(error)) for step, error in outcome.errors.items()]
    if outcome.exact_difference is not None and not outcome.exact_difference <= KEPT:
        found.append(("difference", f"{outcome.exact_difference:.1e} in float64"))
    for name, label in _RUNTIMES.items():
        values = getattr(outcome, name)
        if values is not None and not max(values) <= LIMIT:
            own = outcome.trained_rounding
            rounding = f"; the trained network's own rounding in float32 is {max(own):.1e}" if own else ""
            found.append((label, f"differs by {max(values):.1e}{rounding}"))
    return found


def _static_twin(static: Outcome | None, step: str) -> str:
    """What the same step gives for the network as it was."""
    if step in ("build", "convert", "train", "process", "difference"):
        return ""
    if static is None:
        return "The static network was not tried."
    if step in static.errors:
        return f"**The static network does not either**: {_quoted(static.errors[step])}."
    name = next((name for name, label in _RUNTIMES.items() if label == step), "onnxruntime")
    values = getattr(static, name)
    if step == WHOLE or values is None:
        return "The static network does."
    return f"The static network differs by {max(values):.1e} in {_RUNTIMES[name]}."


def _quoted(error: str) -> str:
    """An error as code, its beginning only where it is long."""
    return f"`{error.rstrip('.')}`" if len(error) <= _SHOWN else f"`{error[:_SHOWN].rstrip()} ...`"


def _conditions(networks: Sequence[Network], results: _Results) -> str:
    # The rate was lowered when the trained network's rounding was first measured.
    older = [
        _name(each)
        for each in networks
        if (ran := results.get((each.key, "odconv"))) and ran.loss and ran.trained_rounding is None
    ]
    rate = f"\n\nODConv's branches still trained at 0.05 in: {', '.join(older)}." if older else ""
    versions: dict[str, set[str]] = {}
    for outcome in results.values():
        for each in outcome.versions.split(", "):
            package, _, version = each.partition(" ")
            versions.setdefault(package, set()).add(version)
    found = ", ".join(f"{package} {' and '.join(sorted(given))}" for package, given in versions.items() if package)
    return f"""## Conditions

Seed 0 for weights and images; one thread; {found}. OpenVINO reads the ONNX file and
computes in float32 (`INFERENCE_PRECISION_HINT` f32). Images are smooth noise, each channel with its own
contrast.{rate}"""


def _name(network: Network) -> str:
    return f"{network.library} {network.name}"
