"""Errors of an index as a whole."""

from __future__ import annotations

from d2r.errors import D2RError


class StoreError(D2RError):
    """An index cannot be opened or changed; the message names it and says what to do."""


class RemovedError(StoreError):
    """A picture was removed from the index after it was looked up."""
