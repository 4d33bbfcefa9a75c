"""What the package promises as a whole: its public names, its layout, the code shown in its documentation."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dynaconv
from dynaconv.layers import LAYERS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


def test_public_names_change_on_purpose_only() -> None:
    assert dynaconv.__all__ == [
        "CondConv2d",
        "DCDConfig",
        "DCDConv2d",
        "DCDLinear",
        "DYConv2d",
        "DynamicConv2d",
        "ODConv2d",
        "SEConv2d",
        "convert",
        "deploy",
        "export_onnx",
        "export_openvino",
        "load_published",
        "parameter_groups",
        "plan_conversion",
        "profile",
        "revert",
        "set_temperature",
    ]
    assert dynaconv.__all__ == sorted(dynaconv.__all__)
    for name in dynaconv.__all__:
        assert getattr(dynaconv, name).__doc__


def test_core_imports_torch_alone() -> None:
    extras = [
        "timm",
        "torchvision",
        "lightning",
        "torchmetrics",
        "jsonargparse",
        "rich",
        "matplotlib",
        "sklearn",
        "PIL",
        "onnx",
        "onnxruntime",
        "openvino",
        "huggingface_hub",
    ]
    code = f"import sys, dynaconv; print([m for m in {extras!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_family_is_whole() -> None:
    folders = {p.name for p in (ROOT / "src/dynaconv/ops").iterdir() if p.is_dir()} - {"common", "__pycache__"}
    assert folders == LAYERS.keys()
    for family in LAYERS:
        for part in ("src/dynaconv/ops/{}/reference.py", "src/dynaconv/layers/{}.py", "docs/layers/{}.md"):
            assert (ROOT / part.format(family)).is_file(), part.format(family)
        assert list((ROOT / "tests/ops" / family).glob("test_*.py")), f"tests/ops/{family}"
        assert (ROOT / "tests/layers" / f"test_{family}.py").is_file(), f"tests/layers/test_{family}.py"


def test_imports_point_one_way() -> None:
    order = ["ops", "layers", "models", "convert", "analysis", "native"]
    order += ["export", "train", "study", "hub", "demo", "commands"]
    # `deploy` hands over to the native backend, inside the function, where it is asked to.
    handed_over = {("convert/deploy.py", "native")}
    for rank, package in enumerate(order):
        for file in (ROOT / "src/dynaconv" / package).rglob("*.py"):
            for imported in re.findall(r"^\s*(?:from|import) dynaconv\.(\w+)", file.read_text(), re.MULTILINE):
                if (str(file.relative_to(ROOT / "src/dynaconv")), imported) in handed_over:
                    continue
                assert imported not in order[rank + 1 :], f"{file.relative_to(ROOT)} imports dynaconv.{imported}"


@pytest.mark.export
@pytest.mark.parametrize("block", BLOCKS)
def test_documented_code_runs(block: str) -> None:
    torch.manual_seed(0)
    exec(compile(block, "<documentation>", "exec"), {})
