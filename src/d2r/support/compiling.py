"""Compilation by Numba: the decorators of all compiled functions, and where their machine code is kept.

Machine code is made once after an installation and kept for the processes that come later: beside the sources, or
where these cannot be written in the user's cache folder (Numba's rules; NUMBA_CACHE_DIR in the environment names
another), or else in a private folder among the temporary files, or nowhere. It is never a reason to fail: what cannot
be read is compiled again, and what cannot be written is not kept.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, update_wrapper
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import config, from_dtype, njit, types
from numba.core.caching import FunctionCache, NullCache

compile_log = logging.getLogger(__name__)

_OPTIONS: Final = {"nogil": True, "boundscheck": False, "error_model": "numpy", "no_cfunc_wrapper": True}

_SCALARS: Final = {int: types.int64, float: types.float64, bool: types.boolean}
_UNWRITABLE: Final = "neither the installation nor a folder of this user can be written"
_setting = threading.Lock()


def read(dtype: type[np.generic], ndim: int) -> Any:
    """Return the type of a contiguous array that is only read; one that can be written fits too."""
    return types.Array(from_dtype(np.dtype(dtype)), ndim, "C", readonly=True)


def write(dtype: type[np.generic], ndim: int) -> Any:
    """Return the type of a contiguous array that is written."""
    return types.Array(from_dtype(np.dtype(dtype)), ndim, "C")


def compiled(*arguments: Any, **options: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Decorate a function that Python calls.

    Args:
        *arguments: the type of each: :func:`read`, :func:`write`, int, float or bool.
        **options: of ``numba.njit``.
    """
    return lambda function: Compiled(function, tuple(_SCALARS.get(one, one) for one in arguments), options)


def inner(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function that only compiled functions call: its machine code is within theirs.

    Args:
        **options: of ``numba.njit``.
    """
    return njit(no_cpython_wrapper=True, **_OPTIONS, **options)  # type: ignore[no-any-return]


class Compiled:
    """A function that is compiled, for the types it is declared with, before its first call.

    Arguments of other types work, at the cost of another compilation.
    """

    def __init__(self, function: Callable[..., Any], declared: tuple[Any, ...], options: dict[str, Any]) -> None:
        update_wrapper(self, function)
        self.dispatcher = njit(**_OPTIONS, **options)(function)
        self.dispatcher._cache = _Kept(function)
        self._declared = declared
        self._read = [isinstance(one, types.Array) and not one.mutable for one in declared]
        self._ready = False

    def __call__(self, *arguments: Any) -> Any:
        """Return what the function returns."""
        if not self._ready:
            self.compile()
        return self.dispatcher(*map(_only_read, arguments, self._read))

    def compile(self) -> None:
        """Compile for the declared types, unless that was done; the first to be called, for Numba prefers no types."""
        self.dispatcher.compile(self._declared)
        self._ready = True


def _only_read(argument: Any, read: bool) -> Any:
    """Return an array that is only read as one that cannot be written: Numba would compile for each kind."""
    if read and isinstance(argument, np.ndarray) and argument.flags.writeable:
        argument = argument.view()
        argument.flags.writeable = False
    return argument


class _Kept(NullCache):  # type: ignore[misc]
    """The machine code of one function on the disk, as a Numba dispatcher asks for it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._files, self._note = _place(function)

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = None
        with suppress(Exception):  # of any kind: the files are pickled
            found = self._files.load_overload(signature, target)
        if found is None:
            _say_once(self._note)
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            self._files.save_overload(signature, data)
        except Exception:  # no room on the disk, or what is there is damaged
            with suppress(OSError):
                self._files.flush()
                self._files.save_overload(signature, data)


def _place(function: Callable[..., Any]) -> tuple[Any, str]:
    """Return the files for the machine code of a function, and what to say when it is compiled."""
    with suppress(RuntimeError):  # no folder can be written
        if not config.CACHE_DIR:
            Path.home()  # raises without one, where Numba would take a folder "~" of wherever the process happens to be
        return FunctionCache(function), "compiling, once after an installation"
    folder = private_folder()
    if folder is not None:
        with _setting, suppress(RuntimeError):
            before, config.CACHE_DIR = config.CACHE_DIR, os.fspath(folder)
            try:
                return FunctionCache(function), f"compiling, once: {_UNWRITABLE}; machine code is kept in {folder}"
            finally:
                config.CACHE_DIR = before
    return NullCache(), f"compiling, at every start: {_UNWRITABLE}; NUMBA_CACHE_DIR can name a folder for machine code"


@cache
def private_folder() -> Path | None:
    """Return a folder among the temporary files for machine code; None when there is none that is safe.

    What is in it is executed: it must be this user's, and nobody else may be able to write it or to put another in its
    place. One that another user made beforehand is therefore not used.
    """
    user = os.geteuid()
    try:
        parent = Path(os.environ.get("TMPDIR") or "/tmp").resolve()
        folder = parent / f"d2r-numba-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        own, above = folder.lstat(), parent.stat()
    except OSError:
        return None
    private = stat.S_ISDIR(own.st_mode) and own.st_uid == user and not own.st_mode & 0o077
    kept = above.st_uid in (0, user) and (not above.st_mode & 0o022 or above.st_mode & stat.S_ISVTX)
    return folder if private and kept else None


@cache
def _say_once(note: str) -> None:
    compile_log.warning(note)
