"""Errors that a user can expect. Each says what is wrong and what to do; the command line prints it on one line."""

from __future__ import annotations


class D2RError(Exception):
    """Something wrong with a call, the machine or a file; the message names it and says what to do."""


class UsageError(D2RError, ValueError):
    """An invalid argument or option."""
