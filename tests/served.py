"""An annotation page that is served while a test runs."""

import threading
from contextlib import contextmanager

from d2r.support.webserver import WebServer
from programs import join


@contextmanager
def serving(app):
    server = WebServer(app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        join(thread)
