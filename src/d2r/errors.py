"""Errors that a user can expect: each says what is wrong and what to do; the command line prints it as one line."""

from __future__ import annotations


class D2RError(Exception):
    """Something that the caller, the machine or a file must put right; the message names it and says what to do."""


class UsageError(D2RError, ValueError):
    """An argument or an option that cannot be used as it is given."""
