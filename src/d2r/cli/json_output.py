"""The output of commands with ``--json``: one document on standard output; docs/json.md lists its fields."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from d2r.index import IndexSize

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead, as in docs/json.md.")]


def print_json(kind: str, record: Mapping[str, Any]) -> None:
    """Print a record as a JSON document that begins with the version of d2r and the kind of the document.

    A path that is not UTF-8 keeps its bytes as lone surrogates (os.fsencode).

    Args:
        kind: the command, as typed after ``d2r``.
        record: JSON values and paths.
    """
    from d2r.support.version import package_version

    print(json.dumps({"d2r": package_version(), "kind": kind, **record}, indent=2, default=os.fspath))


def size_record(size: IndexSize) -> dict[str, int]:
    """Return the size of an index with the names of fields that JSON uses."""
    return {"words" if name == "num_words" else name: value for name, value in asdict(size).items()}
