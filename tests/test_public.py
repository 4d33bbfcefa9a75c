"""What the package promises as a whole: its public names, its layout, the code shown in its documentation."""

import ast
import graphlib
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

import dynaconv
from tests.helpers import LAYERS
from tests.messages import refuses

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
"""Their blocks build on one another; tests/examples/test_notebooks.py runs them whole."""
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if not page.is_relative_to(NOTEBOOKS)),
]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


def test_public_names_change_on_purpose_only() -> None:
    stems = ("Cond", "DCD", "DY", "KernelWarehouse", "OD", "SE")
    convolutions = {f"{stem}Conv{dims}d" for stem in stems for dims in (1, 2, 3)}
    convolutions |= {f"{family}ConvTranspose{dims}d" for family in ("Cond", "DCD", "DY") for dims in (1, 2, 3)}
    others = """
    DCDConfig DCDLinear DynamicConv DynamicConv2d DynamicLayer FDConv2d Family
    KernelWarehouseLinear SharedContext Warehouse apply_conversion
    batched_conv batched_conv_transpose conversion_of convert deploy
    export_onnx export_openvino freeze load_published parameter_groups plan_conversion plan_deployment profile
    published_layer register_family revert set_temperature share_cells
    """
    assert dynaconv.__all__ == sorted({*convolutions, *others.split()})
    assert set(dynaconv.__all__) <= set(dir(dynaconv))
    for name in dynaconv.__all__:
        assert getattr(dynaconv, name).__doc__


def test_editors_know_every_option() -> None:
    generator = runpy.run_path(str(ROOT / "tools" / "write_stubs.py"))
    assert generator["STUB"].read_text() == generator["stub"](), "run python tools/write_stubs.py"


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter has imported after running ``code``."""
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_imports_nothing() -> None:
    found = loaded("import dynaconv")
    assert {name for name in found if name.startswith("dynaconv")} == {"dynaconv", "dynaconv._version"}
    assert "torch" not in found


@pytest.mark.parametrize("name", ["DCDConv2d", "convert", "deploy", "profile", "export_onnx"])
def test_a_public_name_imports_torch_and_the_core_alone(name: str) -> None:
    found = loaded(f"import dynaconv; dynaconv.{name}")
    extras = "timm torchvision lightning torchmetrics jsonargparse rich matplotlib sklearn PIL onnx onnxruntime"
    assert not {*extras.split(), "openvino", "huggingface_hub"} & found
    core = {"_version", "errors", "families", "ops"}
    core |= {"convert": {"conversion"}, "deploy": {"conversion", "deployment"}}.get(name, set())
    if name not in ("profile", "export_onnx"):
        assert {module.split(".")[1] for module in found if module.startswith("dynaconv.")} <= core


def test_every_name_that_is_not_there_says_so() -> None:
    with refuses(AttributeError, "DCDConv"):
        dynaconv.DCDConv  # noqa: B018


def test_every_family_is_whole() -> None:
    folders = {p.name for p in (ROOT / "src/dynaconv/families").iterdir() if (p / "family.py").is_file()}
    assert folders == LAYERS.keys()
    for family in LAYERS:
        for part in ("src/dynaconv/families/{}/reference.py", "docs/families/{}.md", "tests/families/{}/test_layer.py"):
            assert (ROOT / part.format(family)).is_file(), part.format(family)


def test_imports_point_one_way() -> None:
    order = ["ops", "families", "models", "conversion", "deployment", "measure", "native"]
    order += ["export", "explain", "train", "study", "hub", "demo", "explore", "commands"]
    for rank, package in enumerate(order):
        for file in (ROOT / "src/dynaconv" / package).rglob("*.py"):
            for imported in re.findall(r"^\s*(?:from|import) dynaconv\.(\w+)", file.read_text(), re.MULTILINE):
                assert imported not in order[rank + 1 :], f"{file.relative_to(ROOT)} imports dynaconv.{imported}"


def test_no_file_imports_another_in_a_circle() -> None:
    source = ROOT / "src"
    names = {".".join(file.relative_to(source).with_suffix("").parts): file for file in source.rglob("*.py")}
    files = {name.removesuffix(".__init__"): file for name, file in names.items()}

    def imported(statements: Iterable[ast.stmt]) -> Iterator[str]:
        """What runs when the file is imported; what stands in functions and for types alone does not."""
        for node in statements:
            if (
                isinstance(node, ast.If | ast.Try | ast.With)
                and "TYPE_CHECKING" not in ast.unparse(node).split("\n")[0]
            ):
                yield from imported([*node.body, *getattr(node, "orelse", ())])
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
                if not all(f"{node.module}.{alias.name}" in files for alias in node.names):
                    yield str(node.module)

    graph = {name: set(imported(ast.parse(file.read_text()).body)) & files.keys() for name, file in files.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.export
@pytest.mark.parametrize("block", BLOCKS)
def test_documented_code_runs(block: str) -> None:
    torch.manual_seed(0)
    exec(compile(block, "<documentation>", "exec"), {})
