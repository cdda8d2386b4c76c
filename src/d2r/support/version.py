"""The version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the installed version; "0" if the package runs from its sources."""
    try:
        return version("detect-to-retrieve")
    except PackageNotFoundError:
        return "0"
