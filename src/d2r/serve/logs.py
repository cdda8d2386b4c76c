"""The loggers of the service."""

from __future__ import annotations

import json
import logging

from d2r.support.files import printable_path

service_log = logging.getLogger("d2r.serve")
access_log = logging.getLogger("d2r.serve.access")
"""One line for each picture that is added or removed, with the client; no tokens."""


def quoted(text: str) -> str:
    """Return a text from a client for the log: quoted, on one line, with printable characters only."""
    return json.dumps(printable_path(text), ensure_ascii=False)
