"""Instance-level image search: find every picture that shows the same building, monument or object.

    import d2r

    with d2r.open("pictures.index", create=True) as engine:
        engine.sync("Pictures")
        for result in engine.search("castle.jpg", box=(120, 80, 640, 520)):
            print(result.inliers, result.path)

What is here is loaded at its first use, so that ``import d2r`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2r.asmk.codebook import Codebook
    from d2r.engine import Engine
    from d2r.engine import open_index as open
    from d2r.errors import D2RError
    from d2r.options import SearchOptions
    from d2r.pair import match_pictures as match
    from d2r.results import Answer, Link, Result

    __version__: str

__all__ = [
    "Answer",
    "Codebook",
    "D2RError",
    "Engine",
    "Link",
    "Result",
    "SearchOptions",
    "__version__",
    "match",
    "open",
]

_HOMES = {
    "Answer": ("d2r.results", "Answer"),
    "Codebook": ("d2r.asmk.codebook", "Codebook"),
    "D2RError": ("d2r.errors", "D2RError"),
    "Engine": ("d2r.engine", "Engine"),
    "Link": ("d2r.results", "Link"),
    "Result": ("d2r.results", "Result"),
    "SearchOptions": ("d2r.options", "SearchOptions"),
    "match": ("d2r.pair", "match_pictures"),
    "open": ("d2r.engine", "open_index"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from d2r.support.version import package_version

        value: Any = package_version()
    elif name in _HOMES:
        module, attribute = _HOMES[name]
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
