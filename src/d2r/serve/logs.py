"""What the service logs, and where to."""

from __future__ import annotations

import json
import logging

from d2r.support.files import printable_path

service_log = logging.getLogger("d2r.serve")
access_log = logging.getLogger("d2r.serve.access")
"""Who added and removed what, one line each; no tokens."""


def quoted(text: str) -> str:
    """Return a text of a client as it stands in a log: in quotes, on one line, and only what can be printed."""
    return json.dumps(printable_path(text), ensure_ascii=False)
