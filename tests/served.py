"""An annotation page that is served while a test runs."""

import threading
from contextlib import contextmanager

from d2r.annotate.server import LocalServer


@contextmanager
def serving(app):
    server = LocalServer(app)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
