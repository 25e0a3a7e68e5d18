"""Public names of a package that are imported when they are first asked for, so that asking for one costs only it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any


__all__ = ["installed_version", "lazy"]


def lazy(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    r"""
    Makes the `__getattr__` and the `__dir__` of a package (PEP 562).

    Args:
        package (`str`): its `__name__`.
        modules (`Mapping[str, str]`): public names, and the modules in the package that define them.

    Returns:
        `tuple`: the two functions.
    """

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return getattr_, lambda: sorted({*modules, *vars(sys.modules[package])})


def installed_version() -> str:
    """Version of this package."""
    try:
        return version("coma-embedding")
    except PackageNotFoundError:
        return "(a checkout that is not installed)"
