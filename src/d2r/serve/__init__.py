"""The service: an HTTP API over one index, under ``/v1``, and its page."""
