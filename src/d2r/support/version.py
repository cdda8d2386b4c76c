"""Which version of this package is running."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the version that is installed; "0" where the package is run from its sources."""
    try:
        return version("detect-to-retrieve")
    except PackageNotFoundError:
        return "0"
