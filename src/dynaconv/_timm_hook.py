"""Registers dynaconv's networks with timm without importing timm.

`install` registers them at once when timm is already imported. Otherwise it puts a finder on `sys.meta_path` that waits
for the top-level package ``timm``: once that has been executed, ``dynaconv.models`` is imported (importing it is what
registers the names) and the finder takes itself off the path again. Nothing is imported before the user imports timm,
and nothing of the hook is left on the ``timm`` module afterwards.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
import types
import warnings
from collections.abc import Sequence
from typing import Any

_PACKAGE = "timm"
_MODELS = "dynaconv.models"
_lock = threading.Lock()


class _RegisteringLoader(importlib.abc.Loader):
    """Stands in for timm's own loader until timm has been executed; everything else is the real loader's."""

    def __init__(self, loader: importlib.abc.Loader, finder: "_TimmFinder") -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_loader", "_finder"):  # `copy` and `pickle` ask before `__init__` has run
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)  # when timm fails to import, the finder stays for the next attempt
        self._finder.remove()
        _register()


class _TimmFinder(importlib.abc.MetaPathFinder):
    """Finds ``timm`` with the other finders of `sys.meta_path` and wraps the loader they give."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _PACKAGE:
            return None
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if find_spec is None or isinstance(finder, _TimmFinder):
                continue
            spec: importlib.machinery.ModuleSpec | None = find_spec(fullname, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):  # a namespace package's or a legacy loader is left alone
                    assert spec.loader is not None
                    spec.loader = _RegisteringLoader(spec.loader, self)
                return spec
        return None

    def remove(self) -> None:
        with _lock:
            if self in sys.meta_path:
                sys.meta_path.remove(self)


def install() -> None:
    """Register the networks now if timm is imported, else as soon as it is. Calling it again changes nothing."""
    if sys.modules.get(_PACKAGE) is not None:
        _register()
        return
    with _lock:
        if not any(isinstance(finder, _TimmFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _TimmFinder())


def _register() -> None:
    """Import the module whose import registers the names; a timm that does not fit must not break ``import timm``."""
    if _MODELS in sys.modules:  # done, or being done further up this stack or by a thread that waits for timm
        return
    try:
        importlib.import_module(_MODELS)
    except ImportError as error:
        warnings.warn(
            f"dynaconv's networks are not registered with timm: {error}. `import dynaconv.models` shows the cause; "
            f"`pip install 'dynaconv[models]'` installs a timm that fits.",
            RuntimeWarning,
            stacklevel=2,
        )
