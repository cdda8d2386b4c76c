"""Parts chosen by name: from ``NAME[:option=value,...]`` to an object, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar, cast, get_type_hints, runtime_checkable

from d2r.errors import UsageError

_Part = TypeVar("_Part")


class SpecError(UsageError):
    """A specification that names no part or sets an option wrongly; the message lists the valid ones."""


@runtime_checkable
class Pinnable(Protocol):
    """A part that depends on a file, such as a network."""

    def pinned(self) -> Any:
        """Return an equal part that fixes the content of its file; ``ValueError`` if that cannot be done."""
        ...


class Registry(Generic[_Part]):
    """Named parts of one kind, each a frozen dataclass whose fields are its options.

    Args:
        kind: what the command line calls the parts ("regions", "features").
        parts: name to dataclass. Fields are ``int``, ``float`` or ``str`` and have defaults; a dataclass checks its
            values in ``__post_init__`` and raises ``ValueError``.

    Other packages add parts by an entry point in the group ``d2r.KIND``, with the part's name and its dataclass; it is
    loaded when the name is first used. It cannot replace a name in :attr:`parts`. A part without an entry point is
    given as an object, see :meth:`known`.
    """

    def __init__(self, kind: str, parts: Mapping[str, type[_Part]]) -> None:
        self.kind = kind
        self.parts = dict(parts)
        self.given: dict[str, type[_Part]] = {}

    @cached_property
    def added(self) -> dict[str, EntryPoint]:
        """The entry points of other packages, by name."""
        found = {one.name: one for one in entry_points(group=f"d2r.{self.kind}")}
        return {name: one for name, one in found.items() if name not in self.parts}

    def _part(self, name: str) -> type[_Part]:
        if name not in self.parts:
            if name not in self.added:
                there = ", ".join(sorted({*self.parts, *self.added}))
                hint = f" here (it was given as an object: give it again, {self.kind}=...)" if "." in name else ""
                raise SpecError(f"{self.kind} {name!r} is not known{hint}; there are: {there}")
            one = self.added[name]
            try:
                part: Any = one.load()
            except Exception as error:  # any exception: it is another package's code
                raise SpecError(f"{self.kind} {name!r} of {one.value} cannot be loaded: {error}") from error
            if not (isinstance(part, type) and dataclasses.is_dataclass(part)):
                raise SpecError(f"{self.kind} {name!r}: {one.value} is not a dataclass, with its options as fields")
            self.parts[name] = cast("type[_Part]", part)
        return self.parts[name]

    def known(self, part: str | _Part) -> str:
        """Return the specification of a part, which may be one already; register the type of an object.

        The type is registered under the names of its module and class; another process must be given an object too.

        Raises:
            SpecError: the object is not a dataclass.
        """
        if isinstance(part, str):
            return part
        kind = type(part)
        if not dataclasses.is_dataclass(kind):
            raise SpecError(f"{self.kind}: {kind.__qualname__} is not a dataclass, with its options as fields")
        if kind not in self.parts.values():
            self.take(f"{kind.__module__}.{kind.__qualname__}", kind)
        return self.spec(part)

    def take(self, name: str, kind: type[_Part]) -> None:
        """Register a type that was given as an object, in this process."""
        self.parts[name] = self.given[name] = kind

    def given_for(self, spec: str) -> dict[str, type[_Part]]:
        """Return the name and type of a specification's part if it was given as an object; otherwise an empty dict."""
        name = spec.strip().partition(":")[0]
        return {name: self.given[name]} if name in self.given else {}

    def make(self, spec: str) -> _Part:
        """Return the part that ``spec`` describes; :class:`SpecError` if it describes none."""
        name, _, options = spec.strip().partition(":")
        part = self._part(name)
        hints = get_type_hints(part)
        fields = {field.name: hints[field.name] for field in dataclasses.fields(part)}  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        for option in filter(None, options.split(",")):
            key, equals, text = option.partition("=")
            key = key.strip()
            if not equals or key not in fields:
                known = ", ".join(f"{field}=..." for field in fields) or "none"
                raise SpecError(f"{self.kind} {name!r} has no option {option!r}; its options: {known}")
            try:
                values[key] = fields[key](text.strip())
            except ValueError as error:
                wanted = fields[key].__name__
                raise SpecError(f"{self.kind} {spec!r}: {key} must be of type {wanted}, not {text!r}") from error
        try:
            return part(**values)
        except ValueError as error:
            raise SpecError(f"{self.kind} {spec!r}: {error}") from error

    def spec(self, part: _Part) -> str:
        """Return the specification that makes an equal part: its name and the options that differ from the default."""
        name = next(name for name, kind in self.parts.items() if type(part) is kind)
        options = [
            f"{field.name}={getattr(part, field.name)}"
            for field in dataclasses.fields(part)  # type: ignore[arg-type]
            if getattr(part, field.name) != field.default
        ]
        return f"{name}:{','.join(options)}" if options else name

    def pinned(self, spec: str) -> str:
        """Return a specification that means the same everywhere and at any time.

        Raises:
            SpecError: see :meth:`make`; or a specification cannot hold what pins the part.
        """
        part = self.make(spec)
        if not isinstance(part, Pinnable):
            return spec
        try:
            return self.spec(part.pinned())
        except ValueError as error:
            raise SpecError(f"{self.kind} {spec!r}: {error}") from error
