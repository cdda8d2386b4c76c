"""Networks by name: what is known, what was added, and how to get it."""
