"""Compilation by Numba: decorators for compiled functions, and a cache of their machine code.

Functions are compiled once after an installation; later processes use the cache. It is beside the sources, or if that
folder is not writable in the user's cache folder (Numba's rules; the environment variable NUMBA_CACHE_DIR names another
one), or in a private folder among the temporary files, or nowhere. The cache never causes a failure: code that cannot
be read is compiled again, and code that cannot be written is not kept.
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
    """Return the type of a contiguous array that is only read; a writable array fits too."""
    return types.Array(from_dtype(np.dtype(dtype)), ndim, "C", readonly=True)


def write(dtype: type[np.generic], ndim: int) -> Any:
    """Return the type of a contiguous array that is written to."""
    return types.Array(from_dtype(np.dtype(dtype)), ndim, "C")


def compiled(*arguments: Any, **options: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Decorate a function that Python calls.

    Args:
        *arguments: the type of each argument: :func:`read`, :func:`write`, int, float or bool.
        **options: options of ``numba.njit``.
    """
    return lambda function: Compiled(function, tuple(_SCALARS.get(one, one) for one in arguments), options)


def inner(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function that only compiled functions call: its machine code becomes part of theirs.

    Args:
        **options: options of ``numba.njit``.
    """
    return njit(no_cpython_wrapper=True, **_OPTIONS, **options)  # type: ignore[no-any-return]


class Compiled:
    """A function that is compiled for its declared types before its first call.

    Arguments of other types cost another compilation.
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
        """Compile for the declared types, if not done yet; before any call, as Numba prefers none of its types."""
        self.dispatcher.compile(self._declared)
        self._ready = True


def _only_read(argument: Any, read: bool) -> Any:
    """Return an array to be read as a read-only view: Numba would compile for writable arrays too."""
    if read and isinstance(argument, np.ndarray) and argument.flags.writeable:
        argument = argument.view()
        argument.flags.writeable = False
    return argument


class _Kept(NullCache):  # type: ignore[misc]
    """The cache of one function's machine code on disk, with the interface that a Numba dispatcher expects."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._files, self._note = _place(function)

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = None
        with suppress(Exception):  # any exception: the files are pickles
            found = self._files.load_overload(signature, target)
        if found is None:
            _say_once(self._note)
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            self._files.save_overload(signature, data)
        except Exception:  # the disk is full, or the files are damaged
            with suppress(OSError):
                self._files.flush()
                self._files.save_overload(signature, data)


def _place(function: Callable[..., Any]) -> tuple[Any, str]:
    """Return the cache files of a function, and the message to log when it is compiled."""
    with suppress(RuntimeError):  # no folder is writable
        if not config.CACHE_DIR:
            Path.home()  # raises if there is none, where Numba would use a folder "~" in the current one
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
    """Return a folder among the temporary files for machine code; None if no safe one can be had.

    Its files are executed, so it must belong to this user, and nobody else may be able to write to it or replace it. A
    folder that another user made beforehand is therefore not used.
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
