"""Build hook of the wheel: compiles the native kernels into it.

DYNACONV_NATIVE decides: ``1`` compiles them, with the newest torch where the build has none of its own, and fails where
that cannot be done; ``0`` leaves them out; ``auto``, the default, compiles them where torch and a compiler are there.
Without them the wheel serves every platform, and the kernels are compiled where they are first used.
"""

import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def wanted() -> str:
    """What DYNACONV_NATIVE says.

    Raises:
        ValueError: Something else than ``0``, ``1`` or ``auto``.
    """
    choice = os.environ.get("DYNACONV_NATIVE") or "auto"
    if choice not in ("0", "1", "auto"):
        raise ValueError(f"DYNACONV_NATIVE is '0', '1' or 'auto'; got {choice!r}.")
    return choice


class NativeKernels(BuildHookInterface):  # type: ignore[misc]
    """Adds the compiled libraries, and the tag of the platform it is for."""

    def dependencies(self) -> list[str]:
        """Torch, whose headers the kernels need, where they are asked for."""
        return ["torch>=2.10"] if wanted() == "1" else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the files of the wheel are collected."""
        choice = wanted()
        if choice == "0" or version == "editable" or (choice == "auto" and not importlib.util.find_spec("torch")):
            return
        self._folder = tempfile.TemporaryDirectory()
        # The package itself knows how.
        sys.path.insert(0, str(Path(self.root, "src")))
        try:
            from dynaconv.native.toolchain import compile_for_wheel

            libraries = compile_for_wheel(Path(self._folder.name))
        # No compiler, headers that do not fit, or a torch that does not load.
        except (ImportError, OSError, ValueError) as error:
            if choice == "1":
                raise
            self.app.display_warning(f"{str(error).rstrip('.')}; the wheel is one without native kernels.")
            return
        finally:
            sys.path.pop(0)
        for library in libraries:
            build_data["force_include"][str(library)] = f"dynaconv/native/{library.name}"
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled; the wheel has it."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()
