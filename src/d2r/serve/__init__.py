"""The service: an HTTP API for one index, under ``/v1``, and its search page."""
