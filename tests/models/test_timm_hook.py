"""Importing dynaconv registers its networks with timm, whichever comes first, and imports nothing heavy itself."""

import subprocess
import sys
import textwrap

import pytest


def run(code: str) -> str:
    """Run `code` in a fresh interpreter where warnings are errors; return what it prints."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_dynaconv_imports_neither_timm_nor_lightning() -> None:
    loaded = run("import dynaconv, sys; print([m for m in ('timm', 'lightning', 'torchvision') if m in sys.modules])")
    assert loaded == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        "import dynaconv; import timm",
        "import timm; import dynaconv",
        "import dynaconv; from timm.layers import DropPath; import timm",
        "import dynaconv.models; import timm",
    ],
)
def test_networks_are_registered_in_any_import_order(imports: str) -> None:
    create = "timm.create_model('dcd_mobilenetv2_100', device='meta').num_features"
    assert run(f"{imports}; print(len(timm.list_models('dcd_mobilenetv2_*')), {create})") == "10 1280"


def test_the_hook_leaves_nothing_behind() -> None:
    code = """
    import dynaconv, importlib, importlib.util, pickle, sys
    finders = len(sys.meta_path)
    dynaconv._timm_hook.install()
    before = importlib.util.find_spec("timm")
    assert before.origin.endswith("__init__.py") and before.loader.is_package("timm")
    assert "timm" not in sys.modules and len(sys.meta_path) == finders
    import timm
    assert len(sys.meta_path) == finders - 1
    assert type(timm.__loader__).__name__ == type(timm.__spec__.loader).__name__ == "SourceFileLoader"
    assert importlib.util.find_spec("timm") is timm.__spec__
    assert importlib.reload(timm) is timm and timm.is_model("dcd_resnet18")
    assert pickle.loads(pickle.dumps(timm.create_model)) is timm.create_model
    entry = timm.model_entrypoint("dcd_resnet18")
    assert pickle.loads(pickle.dumps(entry)) is entry
    """
    run(code)


def test_a_spec_taken_before_the_import_can_be_executed_and_copied() -> None:
    code = """
    import copy, dynaconv, importlib.util, sys
    spec = copy.copy(importlib.util.find_spec("timm"))
    copy.copy(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["timm"] = module
    spec.loader.exec_module(module)
    assert module.is_model("static_resnet18")
    """
    run(code)


def test_threads_may_import_at_once() -> None:
    code = """
    import dynaconv, importlib, threading
    failures = []
    def load(name):
        try:
            importlib.import_module(name)
        except BaseException as error:
            failures.append(error)
    names = ["timm", "dynaconv.models", "timm", "dynaconv.models"]
    threads = [threading.Thread(target=load, args=(name,)) for name in names]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures, failures
    import timm
    assert timm.is_model("dcd_resnet50")
    """
    run(code)


def test_a_failed_import_of_timm_can_be_repeated() -> None:
    code = """
    import dynaconv, sys
    finders = len(sys.meta_path)
    sys.modules["timm.version"] = None
    try:
        import timm
    except ImportError:
        pass
    else:
        raise AssertionError
    assert "timm" not in sys.modules and len(sys.meta_path) == finders
    del sys.modules["timm.version"]
    import timm
    assert timm.is_model("dcd_resnet50") and len(sys.meta_path) == finders - 1
    """
    run(code)


def test_networks_that_cannot_be_imported_do_not_break_timm() -> None:
    code = """
    import dynaconv, sys, warnings
    sys.modules["dynaconv.models._families"] = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import timm
    assert timm.is_model("resnet18")
    print([str(w.message) for w in caught if w.category is RuntimeWarning])
    """
    assert "not registered with timm" in run(code)


def test_without_timm_the_usual_error_comes() -> None:
    code = """
    import dynaconv, sys
    class Blind:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "timm":
                raise ModuleNotFoundError("No module named 'timm'", name="timm")
    sys.meta_path.insert(1, Blind)
    try:
        import timm
    except ModuleNotFoundError as error:
        print(error)
    """
    assert run(code) == "No module named 'timm'"
