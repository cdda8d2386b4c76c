"""From picture files to an index: describe, aggregate, commit."""
