"""Export every family and two whole networks for phones, and set down how close the phone runtimes come.

    python benchmarks/export_mobile.py executorch --work DIR   # where "dynaconv[executorch]" is installed
    python benchmarks/export_mobile.py litert --work DIR       # where "dynaconv[litert]" is installed
    python benchmarks/export_mobile.py table --work DIR        # the two as a table of Markdown

The two formats may need environments of their own, so each leaves its results in the work folder as JSON; a network
that is there already is not done again. Running statistics are warmed by random images first: with fresh ones a deep
network's own rounding errors are large.

A fresh dynamic network hardly shows its dynamic part: branches start small, and a ResNet's blocks start at zero. So
branches are drawn larger and no norm starts at zero, and a network whose output moves by less than 1 % when its
branches are silenced is refused: it would prove nothing.
"""

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import dynaconv.models  # noqa: F401  # registers the networks with timm
from dynaconv.deployment.norm_pairs import fill_zero_norms
from dynaconv.errors import ExportError
from dynaconv.families import DynamicConv, get_family
from dynaconv.families import families as known
from dynaconv.files import write_text
from dynaconv.markdown import markdown_table

SIDE = 64
NETWORKS = ("dcd_mobilenetv2_050", "dcd_resnet18")
TINY = "tiny net, {}"
LEAST_SHARE = 0.01
# Fresh heads of DCD and ODConv move a net of three layers by less than that.
BRANCH_FACTOR = 20.0


def tiny(family: str) -> nn.Module:
    """A 1x1, a strided 3x3 and a depthwise layer of one family between static ends."""
    layer = get_family(family).layer
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        layer(8, 12, 1),
        nn.ReLU(),
        layer(12, 12, 3, padding=1, stride=2),
        nn.ReLU(),
        layer(12, 12, 3, padding=1, groups=12),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )


def build(name: str) -> nn.Module:
    """A network with random weights and warm statistics."""
    torch.manual_seed(0)
    families = {TINY.format(family.name): family.name for family in known()}
    model = tiny(families[name]) if name in families else timm.create_model(name, num_classes=10)
    with torch.no_grad():
        enlarge_branches(model, BRANCH_FACTOR if name in families else 1.0)
        fill_zero_norms(model, 0.5)
        for _ in range(4):
            model(torch.randn(16, 3, SIDE, SIDE))
    return model


def enlarge_branches(model: nn.Module, factor: float) -> None:
    """Multiply what the last linear maps of every dynamic branch compute."""
    for layer in model.modules():
        if isinstance(layer, DynamicConv):
            branch: Any = layer.branch
            # CondConv's branch is one linear map.
            heads = branch.heads.values() if hasattr(branch, "heads") else [branch]
            for head in heads:
                head.weight.mul_(factor)


@torch.no_grad()
def dynamic_share(model: nn.Module) -> float:
    """How far the output moves, of its largest value, when every branch gives the same for all images."""
    evaluated = copy.deepcopy(model).eval()
    images = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    want = evaluated(images)
    for layer in evaluated.modules():
        if isinstance(layer, DynamicConv):
            for parameter in layer.get_submodule("branch").parameters():
                parameter.zero_()
    return float((evaluated(images) - want).abs().max() / want.abs().max())


def export(form: str, model: nn.Module, folder: Path) -> dict[str, Any]:
    """Export, and return the report or the refusal."""
    example = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    started = time.perf_counter()
    try:
        if form == "executorch":
            from dynaconv.export.executorch import export_executorch

            report = export_executorch(model, folder / "net.pte", example, overwrite=True)
        else:
            from dynaconv.export.litert import export_litert

            report = export_litert(model, folder / "net.tflite", example, batches=(1, 3), overwrite=True)
    except ExportError as error:
        return {"refused": str(error)}
    return {**report.to_dict(), "seconds": time.perf_counter() - started}


def measure(form: str, work: Path) -> None:
    """Export whatever the work folder has no result of."""
    file = work / f"{form}.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    for name in (*(TINY.format(family.name) for family in known()), *NETWORKS):
        if name not in results:
            model = build(name)
            share = dynamic_share(model)
            if share < LEAST_SHARE:
                raise SystemExit(f"{name}: its branches move the output by {share:.1e} only, which proves nothing.")
            with tempfile.TemporaryDirectory() as folder:
                results[name] = export(form, model, Path(folder))
            results[name]["share"] = share
            results[name]["weights"] = 4 * sum(parameter.numel() for parameter in model.parameters())
            write_text(file, json.dumps(results, indent=1))
        print(name, results[name].get("refused") or f"{results[name]['difference']:.1e}", flush=True)


def table(work: Path) -> str:
    """Both formats as Markdown: what the branches contribute, the difference, the file's size, seconds."""
    rows: list[list[object]] = []
    for form, label in (("executorch", "ExecuTorch"), ("litert", "LiteRT")):
        file = work / f"{form}.json"
        for name, found in (json.loads(file.read_text()) if file.is_file() else {}).items():
            if "refused" in found:
                rows.append([name, label, "", "", f"refused: {found['refused']}"])
                continue
            batches = ", ".join(map(str, found["batches"]))
            size = f"{found['size'] / 1e6:.2f} ({found['weights'] / 1e6:.2f})"
            values = [f"{found['share']:.1%}", f"{found['difference']:.1e}", size, f"{found['seconds']:.0f}"]
            rows.append([name, label, batches, *values])
    columns = [
        "network",
        "format",
        "batches",
        "moved by the branches",
        "largest difference",
        "MB (float32 weights)",
        "s",
    ]
    return "\n".join(markdown_table(columns, rows, "lllr"))


def main() -> None:
    """Run as the module's documentation says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("executorch", "litert", "table"))
    parser.add_argument("--work", type=Path, required=True, help="folder of the results")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.what == "table":
        print(table(given.work))
    else:
        measure(given.what, given.work)


if __name__ == "__main__":
    main()
